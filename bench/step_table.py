"""The report of ``dynamicseg bench step`` for a terminal."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from dynamicseg._words import counted


def table(report: dict[str, Any]) -> Group:
    """The report for a terminal of 100 columns; one that was written before there were GPUs can be shown as well."""
    settings, machine = report["settings"], report["environment"]
    height, width = settings["size"]
    head = (
        f"Training step, {height} x {width} pixels, {counted(settings['channels'], 'channel')}, depth "
        f"{settings['depth']}; "
        f"{machine['cpu']}, {counted(machine['threads'], 'thread')}, {machine['backend']}; PyTorch {machine['torch']}; "
        f"fused and compiled in {settings['precision']}"
    )
    limit = report["limit"]
    foot = (
        f"Limit of the fused step: {limit['ms']:.3g} ms, its convolutions and {limit['fused_bytes'] / 1e6:.0f} MB at "
        f"{report['copy_gb_per_s']:.1f} GB/s, the speed of a copy; it takes {limit['times_limit']:.2f} times that. ms: "
        "median, and 20 % to 80 % quantile. published, compiled: how many times faster than these. first loss: how far "
        "from the published one, relative to it, with the same weights. Ours keep freed memory from step to step. "
        "-: not measured."
    )
    tables = [_steps_table(report), _parts_table(report)]
    if report.get("together") is not None:
        head = f"{machine['gpu']}. {head}"
        tables.append(_together_table(report))
    return Group(head, *tables, foot)


def _steps_table(report: dict[str, Any]) -> Table:
    caption = None if report["compiled"]["ok"] else f"compiled: {report['compiled']['reason']}"
    found = _empty_table(caption, "step", "published", "compiled", "first loss")
    for result in report["results"]:
        over_compiled = result["speedup_over_compiled"]
        found.add_row(
            result["competitor"],
            *_times(result["ms"]),
            f"{result['speedup_over_published']:.2f}",
            "-" if over_compiled is None else f"{over_compiled:.2f}",
            f"{result['first_loss_difference']:.1g}",
        )
    return found


def _parts_table(report: dict[str, Any]) -> Table:
    found = _empty_table(None, "part of the fused step")
    for part, ms in report["parts"].items():
        found.add_row(part, *_times(ms))
    return found


def _together_table(report: dict[str, Any]) -> Table:
    found = _empty_table(None, "several networks at a time", "ms an image")
    for entry in report["together"]:
        height, width = entry["size"]
        name = f"{entry['images']} of {height}x{width}"
        found.add_row(name, *_times(entry["ms"]), f"{entry['ms_per_image']:.3f}")
    return found


def _empty_table(caption: str | None, first: str, *others: str) -> Table:
    found = Table(caption=caption, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    found.caption_justify = "left"
    found.add_column(first, no_wrap=True)
    for column in ("ms", "20-80 %", *others):
        found.add_column(column, justify="right", no_wrap=True)
    return found


def _times(ms: dict[str, float]) -> tuple[str, str]:
    decimals = 1 if ms["median"] >= 10 else 3
    return f"{ms['median']:.{decimals}f}", f"{ms['q20']:.{decimals}f} - {ms['q80']:.{decimals}f}"
