"""What the documentation shows works, what it links to is there, and what it quotes is what the program says."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import documentation_commands as commands
import documentation_files as files
import pytest
from documentation import PAGES, ROOT, Block, anchors, blocks, links, text

import dynamicseg as ds
from dynamicseg import cli

WITH_CODE = [page for page in PAGES if blocks(page)]

NOT_RUN = {
    "needs an NVIDIA GPU",
    "needs TensorRT and an NVIDIA GPU",
    "needs TensorRT-RTX",
    "needs a Jetson",
    "needs the CUDA toolkit",
}
"""Why a block is not run here. What stands in it is checked all the same: commands, options, extras, verbs."""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages take for granted."""
    folder = tmp_path_factory.mktemp("documentation") / "files"
    folder.mkdir()
    files.write_all(folder)
    return folder


@pytest.fixture
def here(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None]) -> Path:
    """A copy of it as the working directory; training in Python takes two steps there, on one thread."""
    folder = tmp_path / "here"
    files.copy(stand_ins, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(ds, "train", partial(ds.train, steps=2, crop_size=32))
    monkeypatch.setattr(ds, "segment", partial(ds.segment, max_steps=2))
    monkeypatch.setattr(ds, "Segmenter", partial(ds.Segmenter, max_steps=2))
    threads(1)
    return folder


@pytest.mark.parametrize("page", WITH_CODE)
def test_every_block_does_what_it_shows(page: str, here: Path) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "python":
            assert block.reason is None, "Python is run everywhere"
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(ROOT / page), "exec"), namespace)
        elif block.language == "sh":
            _in_shell(block)
        else:
            assert block.language in ("math", "text"), f"{page}:{block.line}: in what language is this?"


def _in_shell(block: Block) -> None:
    do = commands.run if block.reason is None else commands.check
    for line in block.commands():
        try:
            do(line)
        except Exception as error:
            raise AssertionError(f"{block.page}:{block.line}: {line}") from error


def test_what_is_not_run_says_why() -> None:
    assert {block.reason for page in PAGES for block in blocks(page) if block.reason is not None} == NOT_RUN


@pytest.mark.parametrize(
    "line",
    [
        "dynamicseg segmnt photos/",
        "dynamicseg segment photos/ -o out --lables 5",
        "pip install '.[pretraind]'",
        "pip install numppy",
        "pip install . -C cmake.define.DYNAMICSEG_CUDDA=OFF",
        "make tset",
        "make test VERBS=1",
        "tests/no_such_file.sh",
    ],
)
def test_a_command_that_is_wrong_would_be_found(line: str) -> None:
    with pytest.raises(AssertionError):
        commands.check(line)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            known = anchors(target.resolve().relative_to(ROOT).as_posix())
            assert anchor in known, f"{page} links to {link}, which has {sorted(known)}"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"([\w/-]+\.md)$", text("mkdocs.yml"), re.MULTILINE))
    written = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    assert listed == written | {"changelog.md", "contributing.md", "measured.md"}


def test_files_of_the_architecture_are_there() -> None:
    there = {path.name for path in ROOT.rglob("*") if ".venv" not in path.parts and "build" not in path.parts}
    for named in re.findall(r"`([\w/.]+\.(?:py|cpp|h|cmake|cu))`", text("docs/architecture.md")):
        assert Path(named).name in there, named
        assert "/" not in named or any((ROOT / folder / named).exists() for folder in (".", "dynamicseg")), named


def test_messages_of_troubleshooting_are_those_of_the_program() -> None:
    headings = re.findall(r"^### (`.*)$", text("docs/troubleshooting.md"), re.MULTILINE)
    quoted = [message for heading in headings for message in re.findall(r"`([^`]+)`", heading) if " " in message]
    assert len(quoted) > 20
    for message in quoted:
        parts = [re.escape(part) for part in message.split("…")]
        assert any(re.search(".*?".join(parts), said, re.DOTALL) for said in _said()), message


@cache
def _said() -> tuple[str, ...]:
    """Every text in the sources, with an ellipsis where something is put in."""
    found = [(ROOT / "Makefile").read_text()]
    for folder in ("dynamicseg", "export", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            found.extend(_texts(ast.parse(path.read_text())))
    return tuple(found)


def _texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            yield "".join(str(part) for part in parts)


def test_examples_of_help_could_be_run() -> None:
    for _, command in _hook("commands").commands():
        commands.check(command.epilog.removeprefix("Example: "))


def test_the_reference_has_every_option() -> None:
    hook = _hook("commands")
    reference = hook.reference()
    sections = re.split(r"^## ", reference, flags=re.MULTILINE)[1:]
    assert [section.partition("\n")[0] for section in sections] == [name for name, _ in hook.commands()]
    assert "dynamicseg bench loss" in reference
    for section, (_, command) in zip(sections, hook.commands(), strict=True):
        for parameter in command.params:
            for name in parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]:
                assert name in section


def test_commands_are_those_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    listed = capsys.readouterr().out
    for name, _ in _hook("commands").commands():
        assert name.split()[1] in listed


class TestResults:
    def test_every_report_is_shown(self) -> None:
        page = _hook("results").on_page_markdown(text("docs/performance.md"))
        reports = {path.name for path in (ROOT / "bench/results").glob("*.json")}
        assert {name for name in reports if name in page} == reports
        assert "<!-- results" not in page

    def test_without_a_gpu_it_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hook = _hook("results")
        monkeypatch.setattr(hook, "RESULTS", tmp_path)
        assert hook.gpu().startswith("**Not measured**")
        assert "**not measured**" in hook.measured("loss")

    def test_reports_of_gpu_check_are_taken_apart(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        measured = json.loads((ROOT / "bench/results/step-cpu-2026-11-22.json").read_text())
        measured["environment"]["gpu"] = "NVIDIA Example"
        measured["together"] = [{"size": [32, 48], "images": 4, "ms": measured["limit"] | measured["results"][0]["ms"]}]
        measured["together"][0]["ms_per_image"] = 0.25
        (tmp_path / "gpu-example.json").write_text(json.dumps({"parts": {"step": {"report": measured}}}))
        hook = _hook("results")
        monkeypatch.setattr(hook, "RESULTS", tmp_path)
        page = hook.gpu()
        assert "NVIDIA Example" in page
        assert "| 4 of 32x48 |" in page


def _hook(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"documentation_hook_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
