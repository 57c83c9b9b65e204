"""What the commands share: reading options, running something long, saying what is wrong. No torch here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dynamicseg.exit_status import DONE, SOME_FAILED, WRONG_CALL

DATASETS = "bsds500|labels|voc2012|coco-stuff"


class Unusable(Exception):
    """Nothing of this installation can run as it is called: a wrong environment variable, or no compiled module."""


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Around the imports of a command."""
    try:
        yield
    except (ImportError, ValueError) as error:
        raise Unusable(error) from error


def names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def wrong_call(text: str) -> int:
    """Says what is wrong with the call, and returns the exit status."""
    if text:  # none where there is only the help to show
        print(f"dynamicseg: {' '.join(text.split())}", file=sys.stderr)
    return WRONG_CALL


def height_and_width(size: str) -> tuple[int, int]:
    """What ``--size`` means; ValueError if it means nothing."""
    try:
        height, width = (int(number) for number in size.lower().split("x"))
    except ValueError:
        raise ValueError(f"--size {size}: wants HEIGHTxWIDTH, for example 321x481") from None
    return height, width


def label_floor_named(text: str | None) -> Any:
    """What ``--label-floor`` means; what is neither a number nor ``auto`` is refused by ``config.configure``."""
    return int(text) if text is not None and text.isdecimal() else text


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
