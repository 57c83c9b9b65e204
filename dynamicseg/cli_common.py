"""What the commands share: reading options, running something long, saying what is wrong. No torch here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynamicseg._command import Unusable, loading, names, wrong_call
from dynamicseg.exit_status import DONE, SOME_FAILED

__all__ = ["Unusable", "height_and_width", "loading", "names", "report", "wrong_call"]


def height_and_width(size: str) -> tuple[int, int]:
    """What ``--size`` means; ValueError if it means nothing."""
    try:
        height, width = (int(number) for number in size.lower().split("x"))
    except ValueError:
        raise ValueError(f"--size {size}: wants HEIGHTxWIDTH, for example 321x481") from None
    return height, width


def report(
    run: Callable[[Callable[[str], None]], dict[str, Any]],
    table: Callable[[dict[str, Any]], Any],
    json_path: Path | None,
    *,
    plot: Callable[[dict[str, Any]], None] | None = None,
) -> int:
    """Runs something long with a line that says how far it is; then its table on stdout, and its files."""
    from rich.console import Console

    from dynamicseg.io import write_json

    try:
        with Console(stderr=True).status("starting") as status:
            found = run(status.update)
        Console(width=None if sys.stdout.isatty() else 100).print(table(found))
        if json_path is not None:
            write_json(json_path, found)
        if plot is not None:
            plot(found)
    except (ValueError, OSError) as error:
        return wrong_call(str(error))
    except RuntimeError as error:
        print(f"dynamicseg: {' '.join(str(error).split())}", file=sys.stderr)
        return SOME_FAILED
    return DONE
