"""Working on many inputs: what is on the screen, what is skipped, what failed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dynamicseg._words import counted
from dynamicseg.cli_common import in_options
from dynamicseg.exit_status import DONE, INTERRUPTED, SOME_FAILED
from dynamicseg.inputs import FoundInputs, InputImage
from dynamicseg.segmentation import describe_input, output_paths
from dynamicseg.workers import Work


class Batch:
    """One run over inputs. Texts go to stderr; in a pipe there are only errors, unless ``verbose``.

    Args:
        work: what is done with each image, and where.
        resume: leaves out what is already done with these settings.
        quiet: only errors are said.
        verbose: a line for each image, also in a pipe.
    """

    def __init__(
        self,
        work: Work,
        *,
        resume: bool = False,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        self.work = work
        self.resume = resume
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.shows_progress = self.console.is_terminal and not quiet
        self.tells_each = (self.console.is_terminal or verbose) and not quiet
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.bars: dict[InputImage, TaskID] = {}
        self.done = 0

    def run(self, found: FoundInputs) -> int:
        """Works on every image; returns the exit status, after naming each input that failed."""
        problems = list(found.problems)
        if found.skipped:
            self._tell(
                f"left out, for their names look like results of an earlier run: {counted(len(found.skipped), 'file')}"
            )
            if not found.images and not problems:
                problems.append(f"{found.skipped[0]} and all other inputs look like results of an earlier run")
        failures: dict[InputImage, str] = {}
        interrupted = False
        try:
            with self.progress if self.shows_progress else nullcontext():
                self._work_on_all(found.images, failures)
        except KeyboardInterrupt:
            interrupted = True
        in_order = [failures[image] for image in found.images if image in failures]
        for problem in problems + in_order:
            self.console.print(f"dynamicseg: {in_options(problem)}")
        if interrupted:
            self.console.print(
                f"dynamicseg: interrupted with {self.done} of {counted(len(found.images), 'image')} done; "
                "the same command with --resume goes on from here"
            )
            return INTERRUPTED
        if self.done:
            self._tell(f"{counted(self.done, 'image')} in {self.work.output}")
        return SOME_FAILED if problems or failures else DONE

    def _work_on_all(self, images: Sequence[InputImage], failures: dict[InputImage, str]) -> None:
        all_images = self.progress.add_task("images", total=len(images), state="")
        with closing(self.work.outcomes(self._to_do(images, all_images), self._show)) as outcomes:
            for outcome in outcomes:
                if outcome.image in self.bars:
                    self.progress.remove_task(self.bars.pop(outcome.image))
                if outcome.failed:
                    failures[outcome.image] = outcome.text
                    self._tell(f"{outcome.image.path}: failed")
                else:
                    self.done += 1
                    self._tell(outcome.text)
                self.progress.advance(all_images)

    def _to_do(self, images: Sequence[InputImage], all_images: TaskID) -> Iterator[InputImage]:
        for image in images:
            if self.resume and self._is_done(image):
                self._tell(f"{image.path}: done before")
                self.done += 1
                self.progress.advance(all_images)
            else:
                yield image

    def _show(self, image: InputImage, step: int, state: str) -> None:
        if image not in self.bars:
            self.bars[image] = self.progress.add_task(image.path.name, total=self.work.steps(), state=state)
        self.progress.update(self.bars[image], completed=step, state=state)

    def _is_done(self, image: InputImage) -> bool:
        """Whether all files are there, made from this very file with these settings."""
        work = self.work
        if not work.is_saved(image):
            return False
        try:
            metadata = json.loads(output_paths(work.output, image.stem, "json")["json"].read_text(encoding="utf-8"))
            input_file = describe_input(image.path, work.channel_axis)
            made_with = {name: metadata[name] for name in work.settings()}
            return bool((metadata["input"], made_with) == (input_file, work.settings()))
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _tell(self, text: str) -> None:
        if self.tells_each:
            self.console.print(text)
