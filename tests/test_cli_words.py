"""What the command line says: options as they were typed, the nearest right word, what goes on."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from dynamicseg import cli_report
from dynamicseg.cli import app, main
from dynamicseg.cli_common import OPTIONS_IN_PYTHON, Unusable, in_options, loading


def commands(command: Any) -> Iterator[Any]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield command
    for one in (inner or {}).values():
        yield from commands(one)


APP: Any = typer.main.get_command(app)
COMMANDS = list(commands(APP))


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("n_labels wants at least 1, not 0", "--n-labels wants at least 1, not 0"),
        ("max_steps wants at least 1; seed wants at least 0", "--max-steps wants at least 1; --seed wants at least 0"),
        ("choose a smaller batch_size,\n  crop_size or width", "choose a smaller --batch-size, --crop-size or width"),
        ("device cuda:1: there is none", "--device cuda:1: there is none"),
        ("precision 'fp': choose one", "--precision 'fp': choose one"),
        ("threads is 0: pass at least 1", "--threads is 0: pass at least 1"),
        # Words, paths, code and options that are already written out stay as they are.
        ("images of one size are wanted; size matters", "images of one size are wanted; size matters"),
        ("the seed wants water", "the seed wants water"),
        ("n_labels/x.png: no such file", "n_labels/x.png: no such file"),
        ("in/n_labels.png: no such file", "in/n_labels.png: no such file"),
        ("with --max-side 5 (in Python max_side=5)", "with --max-side 5 (in Python max_side=5)"),
        ("my_n_labels, n_labelsx and 'n_labels'", "my_n_labels, n_labelsx and 'n_labels'"),
    ],
)
def test_options_are_named_as_they_are_typed(message: str, line: str) -> None:
    assert in_options(message) == line


def test_every_option_with_a_hyphen_is_known() -> None:
    typed = {name for command in COMMANDS for parameter in command.params for name in parameter.opts}
    with_hyphens = {name[2:].replace("-", "_") for name in typed if re.fullmatch(r"--\w+(-\w+)+", name)}
    assert with_hyphens - {"no_compile", "no_memory"} <= OPTIONS_IN_PYTHON
    assert {f"--{name.replace('_', '-')}" for name in OPTIONS_IN_PYTHON} <= typed


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix("dynamicseg: ").strip()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("segment x -o o --n-label 3", "dynamicseg segment has no option --n-label; did you mean --n-labels?"),
        (
            "segment x -o o --zzz",
            "dynamicseg segment has no option --zzz; dynamicseg segment --help lists what there is",
        ),
        ("segment x -o o --n-labels many", "--n-labels wants a whole number"),
        ("segment x -o o --mu much", "--mu wants a number"),
        ("segment x -o o --jobs 0", "--jobs wants at least 1"),
        ("segment x", "missing option '-o' / '--output'; dynamicseg segment --help shows how it is called"),
        (
            "segment x -o o --preset fats",
            "--preset 'fats': choose fast, quality, pretrained or paper; did you mean fast?",
        ),
        ("segment x -o o --weighting fsg", "--weighting wants 'fsf', 'scf' or 'fixed', not 'fsg'; did you mean fsf?"),
        ("segmnt x -o o", "dynamicseg has no command segmnt; did you mean segment?"),
        ("zzz", "dynamicseg has no command zzz; dynamicseg --help lists what there is"),
        ("bench los", "dynamicseg bench has no command los; did you mean loss?"),
    ],
)
def test_a_wrong_call_gets_one_line(
    call: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(capsys, *call.split()) == message


def test_every_command_shows_an_example_of_itself() -> None:
    for command in COMMANDS:
        assert command.epilog.startswith("Example: dynamicseg "), command.name
        assert f" {command.name} " in command.epilog
    for group in (APP, APP.commands["bench"]):
        assert group.epilog.startswith("Example: dynamicseg ")


@pytest.mark.parametrize("command", [APP, *APP.commands.values(), *COMMANDS], ids=lambda command: str(command.name))
def test_the_example_is_a_call_that_is_understood(command: Any) -> None:
    _, _, *words = command.epilog.split()
    called = APP
    while hasattr(called, "commands"):
        called = called.commands[words.pop(0)]
    called.make_context(called.name, words)  # a wrong option, or one that is missing, is an exception


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    with pytest.raises(Unusable, match="the package nowhere is not installed: pip install nowhere"), loading():
        import nowhere  # type: ignore[import-not-found]  # noqa: F401


class TestTelling:
    def test_in_a_pipe_nothing_is_said_unless_asked(self, capsys: pytest.CaptureFixture[str]) -> None:
        for verbose in (False, True):
            with cli_report.telling(verbose=verbose) as tell:
                tell("round 1 of 2")
            assert capsys.readouterr() == ("", "round 1 of 2\n" if verbose else "")

    def test_a_terminal_shows_what_goes_on_and_the_time_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = io.StringIO()
        options: dict[str, Any] = {"file": screen, "force_terminal": True, "width": 100}
        monkeypatch.setattr(cli_report, "Console", lambda **_: Console(**options))
        with cli_report.telling() as tell:
            tell("making the graph")
            for number in range(1, 4):
                tell(f"round {number} of 4")
        for words in ("round 3 of 4", "left:"):
            assert words in screen.getvalue()

    @pytest.mark.parametrize("verbose", [False, True])
    def test_reports_name_their_files(self, tmp_path: Path, verbose: bool, capsys: pytest.CaptureFixture[str]) -> None:
        def run(tell: cli_report.Tell) -> dict[str, Any]:
            tell("at work")
            return {"found": 1}

        def draw(report: dict[str, Any], path: Path) -> None:
            path.write_text(str(report["found"]))

        files = tmp_path / "a.json", tmp_path / "a.svg"
        status = cli_report.report(run, lambda _: "table", files[0], plot=(draw, files[1]), verbose=verbose)
        assert status == 0
        assert all(file.exists() for file in files)
        lines = f"at work\nwritten: {files[0]}, {files[1]}\n"
        assert capsys.readouterr() == ("table\n", lines if verbose else "")


def test_long_commands_have_a_verbose_form() -> None:
    short = {"info"}
    for command in COMMANDS:
        if command.name not in short:
            assert any("-v" in parameter.opts for parameter in command.params), command.name
