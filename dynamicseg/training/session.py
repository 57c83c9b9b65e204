"""A training from the command line: what is on the screen, which files are written, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dynamicseg._words import counted
from dynamicseg.cli_common import in_options, wrong_call
from dynamicseg.exit_status import DONE, INTERRUPTED, SOME_FAILED
from dynamicseg.guidance import LabelFile
from dynamicseg.guidance_files import find_guidance
from dynamicseg.inputs import find_images
from dynamicseg.training.config import TrainingConfig
from dynamicseg.training.log import NO_PLOT, checkpoint_path, curve_path, log_path, write_curve, write_log
from dynamicseg.training.loop import LOOK_EVERY, TrainingRecord
from dynamicseg.training.train import Training, train_on


class TrainingSession:
    """One call of ``dynamicseg train``. Texts go to stderr; in a pipe there are only errors, unless ``verbose``.

    Args:
        config: as ``training.train.usable`` gives it.
        output: the file for the model.
        scribbles: a file or folder of label images that go with some inputs.
        channel_axis: see ``train``.
        resume: goes on from the checkpoint, if there is one.
        quiet: only errors are said.
        verbose: a line now and then, also in a pipe.
    """

    def __init__(
        self,
        config: TrainingConfig,
        output: Path,
        *,
        scribbles: LabelFile | None = None,
        channel_axis: int | None = None,
        resume: bool = False,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        self.config = config
        self.output = output
        self.scribbles = scribbles
        self.channel_axis = channel_axis
        self.resume = resume
        self.console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.shows_progress = self.console.is_terminal and not quiet
        self.tells = (self.console.is_terminal or verbose) and not quiet
        self.tells_steps = verbose and not quiet
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self.bar: TaskID = self.progress.add_task("steps", total=config.steps, state="reading images")

    def run(self, inputs: Sequence[str]) -> int:
        """Trains on the images that the arguments name; returns the exit status, after naming each that failed."""
        found = find_images(inputs)
        failures = list(found.problems)
        try:
            files, found = find_guidance(found, {} if self.scribbles is None else {"scribbles": self.scribbles})
        except (ValueError, OSError) as error:
            return wrong_call(str(error))
        paths = [image.path for image in found.images]
        checkpoint = checkpoint_path(self.output)
        try:
            if not paths:
                raise ValueError("there is no image to train on")
            with self.progress if self.shows_progress else nullcontext():
                training = train_on(
                    paths,
                    self.config,
                    scribbles=None if self.scribbles is None else [files.of(i).get("scribbles") for i in found.images],
                    channel_axis=self.channel_axis,
                    checkpoint=checkpoint,
                    resume=self.resume,
                    on_step=self._show,
                    on_failure=failures.append,
                    on_phase=self._show_phase,
                )
            training.model.save(self.output)
            checkpoint.unlink(missing_ok=True)
            write_log(log_path(self.output), training, [str(path) for path in paths], failures)
        except KeyboardInterrupt:
            self._say_failures(failures)
            kept = "; the same command with --resume goes on from here" if checkpoint.exists() else ""
            self.console.print(f"dynamicseg: interrupted{kept}")
            return INTERRUPTED
        except (ValueError, OSError, MemoryError) as error:
            self._say_failures([*failures, str(error)])
            return SOME_FAILED
        written = [self.output, log_path(self.output), *self._draw(training)]
        self._say_failures(failures)
        labels, steps = training.model.description.label_count, len(training.history)
        self._tell(
            f"{counted(labels, 'label')} after {counted(steps, 'step')} and {training.seconds:.0f} s in "
            f"{', '.join(map(str, written))}"
        )
        features = self.config.features
        if features is not None and features.is_onnx and not (self.output.parent / Path(features.source).name).exists():
            self._tell(f"to predict and export, put {features.source} beside the model, or name it with --backbone")
        return SOME_FAILED if failures else DONE

    def _draw(self, training: Training) -> list[Path]:
        """Draws the curve; the files that have come of it."""
        try:
            write_curve(curve_path(self.output), training)
        except ImportError:
            self._tell(NO_PLOT)
            return []
        return [curve_path(self.output)]

    def _show_phase(self, text: str) -> None:
        self.progress.update(self.bar, state=text)
        self._tell(text)

    def _show(self, record: TrainingRecord) -> None:
        state = f"loss {record['loss']:.3f}, {counted(round(record['n_labels']), 'label')}"
        self.progress.update(self.bar, completed=record["step"], state=state)
        if self.tells_steps and record["step"] % LOOK_EVERY == 0:
            self.console.print(f"step {record['step']}: {state}")

    def _say_failures(self, failures: Sequence[str]) -> None:
        for failure in failures:
            self.console.print(f"dynamicseg: {in_options(failure)}")

    def _tell(self, text: str) -> None:
        if self.tells:
            self.console.print(text)
