"""What is seen of a long work that is not image after image: what is going on, for how long, and what came of it."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dynamicseg.cli_common import say, wrong_call
from dynamicseg.exit_status import DONE, SOME_FAILED

Tell: TypeAlias = Callable[[str], None]

Verbose: TypeAlias = Annotated[
    bool, typer.Option("-v", "--verbose", help="A line on stderr for each thing that is done, also in a pipe.")
]
_K_OF_N = re.compile(r"(\d+) of (\d+)")


@contextlib.contextmanager
def telling(*, quiet: bool = False, verbose: bool = False) -> Iterator[Tell]:
    """Gives a function that is told what is going on, in a few words.

    On a terminal they stand in a line with the time that has passed, and the time left where they say how far the work
    is, as in "round 3 of 20". With ``verbose`` each is a line of its own; in a pipe there is nothing else.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, quiet=quiet)
    if verbose or not console.is_terminal:
        yield console.print if verbose else lambda _: None
        return
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with progress:
        yield _Shown(progress).tell


class _Shown:
    """What ``telling`` shows on a terminal: a bar for each work that is counted."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None)
        self._work = ""

    def tell(self, text: str) -> None:
        count = _K_OF_N.search(text)
        done, total = (int(count[1]), int(count[2])) if count else (0, None)
        work = _K_OF_N.sub("", text) if count else text
        if work != self._work and (count is None or total != self._progress.tasks[0].total):
            self._progress.reset(self._task, total=total)  # another work: its own time
        self._work = work
        self._progress.update(self._task, description=text, completed=done, total=total)


def report(
    run: Callable[[Tell], dict[str, Any]],
    table: Callable[[dict[str, Any]], Any],
    json_path: Path | None,
    *,
    plot: tuple[Callable[[dict[str, Any], Path], None], Path] | None = None,
    verbose: bool = False,
) -> int:
    """Runs something long and says what it does; then its table on stdout, and its files.

    ``plot``: a function that draws the report into a file, and the file.
    """
    from dynamicseg.io import write_json

    written = []
    try:
        with telling(verbose=verbose) as tell:
            found = run(tell)
        Console(width=None if sys.stdout.isatty() else 100).print(table(found))
        if json_path is not None:
            write_json(json_path, found)
            written.append(str(json_path))
        if plot is not None:
            draw, path = plot
            draw(found, path)
            written.append(str(path))
    except (ValueError, OSError) as error:
        return wrong_call(str(error))
    except RuntimeError as error:
        say(str(error))
        return SOME_FAILED
    if written and (verbose or sys.stderr.isatty()):
        print(f"written: {', '.join(written)}", file=sys.stderr)
    return DONE
