"""Tables of what was measured, from ``bench/results``: ``<!-- results: loss -->`` becomes those of ``bench loss``.

They are the tables that the commands themselves print, so that nothing is said twice.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

RESULTS = Path(__file__).parents[2] / "bench" / "results"

_PLACE = re.compile(r"<!-- results: ([a-z-]+) -->")
_TABLE_OF = {
    "loss": "loss_table",
    "step": "step_table",
    "inference": "inference",
    "quality": "quality",
    "segment": "segment",
    "train": "training",
    "guidance": "guidance",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts tables where a page wants them."""
    return _PLACE.sub(lambda found: gpu() if found[1] == "gpu" else measured(found[1]), markdown)


def measured(benchmark: str) -> str:
    """All reports of one benchmark on a CPU."""
    found = [(path, report) for path, report in _reports() if report.get("benchmark") == benchmark]
    if not found:
        return f"`dynamicseg bench {benchmark}`: **not measured** yet."
    return "\n\n".join(_section(path.name, report) for path, report in found)


def gpu() -> str:
    """What `make gpu-check` has written, if it ever ran."""
    found = [(path, report) for path, report in _reports() if path.name.startswith("gpu-")]
    if not found:
        return "**Not measured**: no report of `make gpu-check` has been added yet."
    return "\n\n".join(_section(path.name, part) for path, report in found for part in _benchmarks(report))


def _reports() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(RESULTS.glob("*.json")):
        yield path, json.loads(path.read_text())


def _benchmarks(report: Any) -> Iterator[dict[str, Any]]:
    """The reports of benchmarks within one of `make gpu-check`, however deep."""
    if isinstance(report, dict):
        if report.get("benchmark") in _TABLE_OF and "environment" in report:
            yield report
        else:
            for part in report.values():
                yield from _benchmarks(part)
    elif isinstance(report, list):
        for part in report:
            yield from _benchmarks(part)


def _section(name: str, report: dict[str, Any]) -> str:
    module = importlib.import_module(f"dynamicseg.bench.{_TABLE_OF[report['benchmark']]}")
    environment = report["environment"]
    commit = environment["git_commit"]
    stamp = [
        environment["gpu"] or environment["cpu"],
        f"PyTorch {environment['torch']}",
        environment["date"][:10],
        *([f"commit {commit[:10]}"] if commit else []),
    ]
    return f"*`{name}`: {', '.join(stamp)}*\n\n{markdown_of(module.table(report))}"


def markdown_of(shown: Any) -> str:
    """What a command would print, in Markdown: paragraphs of text, and tables."""
    if isinstance(shown, Group):
        return "\n\n".join(markdown_of(part) for part in shown.renderables)
    return _table(shown) if isinstance(shown, Table) else _plain(shown)


def _table(table: Table) -> str:
    columns = table.columns
    rows = zip(*(map(_plain, column.cells) for column in columns), strict=True)
    lines = [
        [_plain(column.header) for column in columns],
        ["---:" if column.justify == "right" else "---" for column in columns],
        *rows,
    ]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join(part for part in (_plain(table.title), text, _plain(table.caption)) if part)


def _plain(cell: Any) -> str:
    text = cell.plain if isinstance(cell, Text) else str(cell or "")
    return re.sub(r"([*_|<])", r"\\\1", " ".join(text.split()))
