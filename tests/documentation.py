"""The pages of the repository: their blocks of code, and their links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "bench/results/README.md",
    "csrc/cuda/README.md",
    "tests/cuda_on_host/README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")),
)

_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]*?) -->\n)?```(?P<language>[a-z]*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: relative to the repository.
        line: of its first line of code, from 1.
        language: as the fence names it.
        code: what stands in it.
        reason: why it cannot be run just anywhere, from the mark before it; None: it can.
    """

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    def commands(self) -> list[str]:
        """The commands of a block for the shell, each in one line."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def text(page: str) -> str:
    """What stands in a page."""
    return (ROOT / page).read_text()


def blocks(page: str) -> list[Block]:
    """The blocks of code in a page, from top to bottom."""
    content = text(page)
    return [
        Block(page, content[: found.start("code")].count("\n") + 1, found["language"], found["code"], found["reason"])
        for found in _BLOCK.finditer(content)
    ]


def links(page: str) -> Iterator[str]:
    """Where a page leads to within the repository, pictures included."""
    for target in _LINK.findall(_without_code(page)):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: str) -> set[str]:
    """The names by which headings can be linked to; those that all readers of Markdown agree on."""
    headings = _HEADING.findall(_without_code(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _without_code(page: str) -> str:
    return _BLOCK.sub("", text(page))
