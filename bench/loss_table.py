"""The report of ``dynamicseg bench loss`` for a terminal."""

from __future__ import annotations

from typing import Any, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from dynamicseg._words import counted
from dynamicseg.bench.loss import Pass


def table(report: dict[str, Any]) -> Group:
    """The report for a terminal of 100 columns: a table for each dtype and layout, and what the columns mean.

    Reports that were written before there were options and GPUs can be shown as well.
    """
    settings, machine = report["settings"], report["environment"]
    height, width = settings["size"]
    head = (
        f"Loss of {settings['batch']} x {settings['channels']} x {height} x {width} responses; {machine['cpu']}, "
        f"{counted(machine['threads'], 'thread')}, {machine['backend']}; PyTorch {machine['torch']}"
    )
    foot = (
        "ms or us: median, and 20 % to 80 % quantile. GB/s: of the bytes that must move. limit: time over what these "
        "bytes take at the speed of the copy. eager, compiled: how many times faster than these. -: not measured. "
    )
    tables = [
        table
        for entry in report["maps"]
        for table in (_map_table(entry), *([_options_table(entry)] if entry.get("options") else []))
    ]
    if settings["device"] == "cpu":
        return Group(head, *tables, foot + "peak MB: memory beyond the input.")
    copies = ", ".join(
        f"{copy['bytes'] / 1e6:.0f} MB at {copy['gb_per_s']:.0f} GB/s" for copy in report["copy_bandwidth"].values()
    )
    head = f"{machine['gpu']}. {head}. Copies: {copies}"
    foot += "large: the limit at the speed of the largest copy. wall: with what Python needs to launch the kernels."
    return Group(head, *tables, foot)


def _map_table(entry: dict[str, Any]) -> Table:
    copy, compiled = entry["copy"], entry["compiled"]
    title = (
        f"{entry['dtype']} {entry['layout']}, {entry['map_bytes'] / 1e6:.1f} MB; "
        f"copy {copy['ms']['median']:.3g} ms, {copy['gb_per_s']:.1f} GB/s"
    )
    caption = None if compiled["ok"] else f"compiled: {compiled['reason']}"
    found = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    found.title_justify = found.caption_justify = "left"
    for column in ("pass", "competitor"):
        found.add_column(column, no_wrap=True)
    on_gpu = entry["results"][0].get("wall_ms") is not None
    columns = ["ms", "20-80 %", "GB/s", "limit", "eager", "compiled", "peak MB"]
    if on_gpu:
        columns = ["us", "20-80 %", "limit", "eager", "compiled", "large", "wall us"]
    for column in columns:
        found.add_column(column, justify="right", no_wrap=True)
    for which in get_args(Pass):
        rows = [_cells(result, on_gpu) for result in entry["results"] if result["pass"] == which]
        for cells in rows:
            found.add_row(which if cells is rows[0] else "", *cells, end_section=cells is rows[-1])
    return found


def _options_table(entry: dict[str, Any]) -> Table:
    title = f"{entry['dtype']} {entry['layout']}, fused, with optional terms; base: without, measured beside them"
    found = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    found.title_justify = "left"
    for column in ("pass", "options"):
        found.add_column(column, no_wrap=True)
    for column in ("ms", "20-80 %", "times base"):
        found.add_column(column, justify="right", no_wrap=True)
    for which in dict.fromkeys(result["pass"] for result in entry["options"]):
        rows = [result for result in entry["options"] if result["pass"] == which]
        for result in rows:
            ms = result["ms"]
            numbers = (_short(ms["median"]), f"{_short(ms['q20'])} - {_short(ms['q80'])}", _short(result["times_base"]))
            first, last = result is rows[0], result is rows[-1]
            found.add_row(which if first else "", result["option"], *numbers, end_section=last)
    return found


def _cells(result: dict[str, Any], on_gpu: bool) -> list[str]:
    ms, peak, over_compiled = result["ms"], result["peak_memory_bytes"], result["speedup_over_compiled"]
    last, scale = ["-" if peak is None else f"{peak / 1e6:.0f}"], 1.0
    if on_gpu:
        scale = 1e3  # to microseconds
        last = [_short(result["times_large_limit"]), _short(scale * result["wall_ms"]["median"])]
    return [
        result["competitor"],
        _short(scale * ms["median"]),
        f"{_short(scale * ms['q20'])} - {_short(scale * ms['q80'])}",
        *([] if on_gpu else [_short(result["gb_per_s"])]),
        *(_short(result[column]) for column in ("times_limit", "speedup_over_eager")),
        "-" if over_compiled is None else _short(over_compiled),
        *last,
    ]


def _short(number: float) -> str:
    """With about three digits, five characters for anything from 0.001 to 99999."""
    decimals = 3 if number < 1 else 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{decimals}f}"
