"""Commands of the documentation: what can be run is run, the others are checked as far as they can be."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer.main
from documentation import ROOT

from dynamicseg import cli, predict_command

# A line is run as it stands, with these options behind it, the last of which counts: fewer steps and rounds, no further
# processes, and no share of labels that a model after two steps has to reach. All other options are those of the page.
_QUICK = {
    "segment": ["--max-steps", "2", "--jobs", "1"],
    "train": ["--steps", "2", "--crop-size", "32"],
    "export": ["--min-agreement", "0"],
    "bench loss": ["--repeats", "1"],
    "bench inference": ["--repeats", "1", "--size", "36x48", "--no-compile", "--no-memory"],
    "bench train": ["--methods", "train:steps=2:crop_size=32,kmeans"],
    "bench quality": ["--methods", "dynamicseg:max_steps=2,felzenszwalb"],
}

_MAKEFILE = (ROOT / "Makefile").read_text()
_PROJECT = (ROOT / "pyproject.toml").read_text()
_CMAKE = "".join(path.read_text() for path in [ROOT / "CMakeLists.txt", *(ROOT / "cmake").glob("*.cmake")])
_SYSTEM_PACKAGES = {"g++", "make", "python3-venv", "python3-dev"}


def run(line: str) -> None:
    """Runs a command, or checks it where it would change the machine; AssertionError if it is not right."""
    words = shlex.split(line, comments=True)
    if words[0] == "dynamicseg":
        _run_cli(words[1:])
    elif words[:3] == ["python", "-m", "dynamicseg.predict"]:
        assert predict_command.main(words[3:]) == 0, line
    else:
        check(line)


def check(line: str) -> None:
    """Sees to it that a command could be run: its options, extras, verbs and files are there."""
    words = shlex.split(line, comments=True)
    program = Path(words[0]).name
    known: dict[str, Callable[[list[str]], None]] = {
        "dynamicseg": _check_cli,
        "pip": _check_pip,
        "apt": _check_apt,
        "make": _check_make,
        "python": _check_python,
        "python3": _check_python,
        "pytest": _check_pytest,
        "pre-commit": lambda words: None,
    }
    if "&&" in words:
        for part in line.split("&&"):
            check(part)
    elif program in known:
        known[program](words[1:])
    else:
        assert (ROOT / words[0]).is_file(), f"{line}: there is no {words[0]}"


def _command(words: list[str]) -> tuple[str, Any, list[str]]:
    """The name of a command, the command, and what it is called with."""
    group: Any = typer.main.get_command(cli.app)
    name: list[str] = []
    while hasattr(group, "commands"):
        assert words, f"dynamicseg {' '.join(name)}: a command is missing"
        assert words[0] in group.commands, f"there is no command dynamicseg {' '.join([*name, words[0]])}"
        name.append(words[0])
        group, words = group.commands[words[0]], words[1:]
    return " ".join(name), group, words


def _check_cli(words: list[str]) -> None:
    if words == ["--version"]:
        return
    name, command, rest = _command(words)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in rest:
        if word.startswith("-"):
            assert word.partition("=")[0] in known | {"-h", "--help"}, f"dynamicseg {name} has no option {word}"


def _run_cli(words: list[str]) -> None:
    _check_cli(words)
    try:
        cli.main([*words, *_QUICK.get(_command(words)[0], [])])
    except SystemExit as ended:
        assert not ended.code, f"dynamicseg {' '.join(words)}: exit status {ended.code}"


def _check_pip(words: list[str]) -> None:
    named = [word for word in words[1:] if not word.startswith("-")]
    for word in named:
        if found := re.fullmatch(r"(?:\.|dynamicseg)\[(.*)\]", word):
            for extra in found[1].split(","):
                assert re.search(rf"^{extra} = \[", _PROJECT, re.MULTILINE), f"there is no extra {extra}"
        elif found := re.match(r"cmake\.define\.(\w+)=", word):
            assert found[1] in _CMAKE, f"CMake knows no {found[1]}"
        elif word not in (".", "dist", "dynamicseg-*.whl"):
            assert re.search(rf'"{word}>=', _PROJECT) or word == "pre-commit", f"pip install {word}: no such dependency"


def _check_apt(words: list[str]) -> None:
    assert words[0] == "install"
    assert set(words[1:]) <= _SYSTEM_PACKAGES


def _check_make(words: list[str]) -> None:
    for word in words:
        name, is_variable, _ = word.partition("=")
        pattern = rf"\b{name}\b" if is_variable else rf"^{name}:.*##"
        assert re.search(pattern, _MAKEFILE, re.MULTILINE), f"make {word}: the Makefile knows none"


def _check_python(words: list[str]) -> None:
    if words[0] == "-c":
        compile(words[1], "python -c", "exec")
    else:
        assert words[0] == "-m"
        assert words[1] in ("venv", "dynamicseg.predict"), words[1]


def _check_pytest(words: list[str]) -> None:
    for word in words:
        if word.startswith("tests"):
            assert (ROOT / word).exists(), f"there is no {word}"
