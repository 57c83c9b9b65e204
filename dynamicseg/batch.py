"""Segmenting many inputs: what is on the screen, what is skipped, what failed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dynamicseg._files import os_error
from dynamicseg.exit_status import DONE, INTERRUPTED, SOME_FAILED
from dynamicseg.inputs import FoundInputs, InputImage
from dynamicseg.segmentation import describe_input, is_saved, output_paths

if TYPE_CHECKING:
    from dynamicseg.segmenter import Segmenter
    from dynamicseg.trainer import StepRecord


def check_writable(folder: Path) -> None:
    """Makes the output folder; OSError, one line, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise os_error(folder, "is no folder that can be written to", error) from None


class Batch:
    """One run over inputs. Texts go to stderr; in a pipe there are only errors, unless ``verbose``."""

    def __init__(
        self,
        segmenter: Segmenter,
        output: Path,
        formats: Sequence[str],
        *,
        channel_axis: int | None = None,
        resume: bool = False,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        self.segmenter = segmenter
        self.output = output
        self.formats = formats
        self.channel_axis = channel_axis
        self.resume = resume
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.shows_progress = self.console.is_terminal and not quiet
        self.tells_each = (self.console.is_terminal or verbose) and not quiet
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )

    def run(self, found: FoundInputs) -> int:
        """Segments every image; returns the exit status, after naming each input that failed."""
        failures = list(found.problems)
        if found.skipped:
            self._tell(f"{len(found.skipped)} files look like results of an earlier run and are left out")
            if not found.images and not failures:
                failures.append(f"{found.skipped[0]} and all other inputs look like results of an earlier run")
        done = 0
        try:
            with self.progress if self.shows_progress else nullcontext():
                all_images = self.progress.add_task("images", total=len(found.images), state="")
                for image in found.images:
                    try:
                        self._segment(image)
                        done += 1
                    except Exception as error:  # whatever one image meets, the others are finished
                        failures.append(_named(image, error))
                        self._tell(f"{image.path}: failed")
                    self.progress.advance(all_images)
        except KeyboardInterrupt:
            self._report(failures)
            self.console.print(
                f"dynamicseg: interrupted with {done} of {len(found.images)} images done; "
                "the same command with --resume goes on from here"
            )
            return INTERRUPTED
        self._report(failures)
        if done:
            self._tell(f"{done} {'image' if done == 1 else 'images'} in {self.output}")
        return SOME_FAILED if failures else DONE

    def _segment(self, image: InputImage) -> None:
        if self.resume and self._is_done(image):
            self._tell(f"{image.path}: done before")
            return
        steps = self.progress.add_task(image.path.name, total=self.segmenter.config.max_steps, state="reading")

        def on_step(record: StepRecord) -> None:
            state = f"{record['n_labels']} labels, loss {record['loss']:.3f}"
            self.progress.update(steps, completed=record["step"], state=state)

        try:
            result = self.segmenter.segment(image.path, channel_axis=self.channel_axis, on_step=on_step)
            self.progress.update(steps, state="saving")
            written = result.save(self.output, image.stem, self.formats)
        finally:
            self.progress.remove_task(steps)
        steps_done = f"{len(result.history)} steps" + (" (time is up)" if result.stopped == "time_budget" else "")
        self._tell(
            f"{image.path}: {result.n_labels} labels, {steps_done}, {result.timings['total']:.1f} s -> {written[0]}"
        )

    def _is_done(self, image: InputImage) -> bool:
        """Whether all files are there, made from this very file with these settings."""
        if not is_saved(self.output, image.stem, self.formats):
            return False
        try:
            metadata = json.loads(output_paths(self.output, image.stem, "json")["json"].read_text(encoding="utf-8"))
            made_from = metadata["input"], metadata["config"]
            input_file = describe_input(image.path, self.channel_axis)
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return made_from == (input_file, self.segmenter.config.model_dump(mode="json"))

    def _tell(self, text: str) -> None:
        if self.tells_each:
            self.console.print(text)

    def _report(self, failures: Sequence[str]) -> None:
        for failure in failures:
            self.console.print(f"dynamicseg: {failure}")


def _named(image: InputImage, error: Exception) -> str:
    """One line that starts with the image's path."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, (ValueError, TypeError, OSError, MemoryError)):
        text = f"{type(error).__name__}: {text}"
    return text if text.startswith(str(image.path)) else f"{image.path}: {text}"
