"""What ``dynamicseg segment`` does with each image, from file to written results."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg import gpu_pipeline
from dynamicseg._words import counted
from dynamicseg.evolution import Evolution
from dynamicseg.guidance_files import GuidanceFiles
from dynamicseg.inputs import InputImage
from dynamicseg.memory import usable_cores
from dynamicseg.workers import Outcome, Show, ShowImage, Work, failure

if TYPE_CHECKING:
    from dynamicseg.segmentation import Segmentation
    from dynamicseg.segmenter import Learned, Prepared, Segmenter
    from dynamicseg.trainer import OnStep

_MOST_JOBS_BESIDE_A_GPU = 16
NO_FILES = GuidanceFiles()


def default_jobs(segmenter: Segmenter) -> int:
    """1 on the CPU, whose cores one image keeps busy; beside a GPU a process on each core but one, at most 16."""
    return max(1, min(usable_cores() - 1, _MOST_JOBS_BESIDE_A_GPU)) if segmenter.trains_on_gpu else 1


@dataclass(frozen=True, kw_only=True)
class SegmentWork(Work):
    """Each image is segmented, by a network trained on it.

    ``jobs`` are images at a time on the CPU; with a GPU, processes that prepare images and finish results beside it.
    """

    segmenter: Segmenter
    guidance: GuidanceFiles = NO_FILES
    evolution: Path | None = None
    """Where the labels of the steps go to, if there is one image."""

    def outcomes(self, images: Iterable[InputImage], show: ShowImage) -> Generator[Outcome, None, None]:
        """As any work; on a GPU in stages, unless there is one image alone, for which no process need begin."""
        if not self.segmenter.trains_on_gpu:
            return super().outcomes(images, show)
        waiting = iter(images)
        begin = list(itertools.islice(waiting, 2))
        if len(begin) < 2:
            return replace(self, jobs=1).one_by_one(begin, show)
        return gpu_pipeline.in_stages(itertools.chain(begin, waiting), self, show)

    def finish(self, image: InputImage, show: Show) -> str:
        """Trains on the image, and saves its segmentation."""
        show(0, "reading")
        evolution = None if self.evolution is None else Evolution(self.segmenter.config.max_steps)
        segmentation = self.segmenter.segment(
            image.path,
            channel_axis=self.channel_axis,
            on_step=self.on_step(show),
            on_labels=None if evolution is None else evolution.see,
            **self.guidance.of(image),
        )
        if evolution is None or self.evolution is None:
            return self.save(image, segmentation, show)
        evolution.save(self.evolution, segmentation)
        return f"{self.save(image, segmentation, show)}, {self.evolution}"

    def is_saved(self, image: InputImage) -> bool:
        """Whether all files of the image are there."""
        return super().is_saved(image) and (self.evolution is None or self.evolution.is_file())

    def on_step(self, show: Show) -> OnStep:
        """Shows each training step."""
        return lambda record: show(record["step"], f"{counted(record['n_labels'], 'label')}, loss {record['loss']:.3f}")

    # What processes beside a GPU do; whatever an image meets there becomes its outcome.

    def prepare(self, image: InputImage, available: int | None, show: Show) -> Prepared | Outcome:
        """See ``Segmenter.prepare``."""
        try:
            return self.segmenter.prepare(
                image.path, channel_axis=self.channel_axis, available=available, **self.guidance.of(image)
            )
        except Exception as error:
            return failure(image, error)

    def complete(self, image: InputImage, prepared: Prepared, learned: Learned, show: Show) -> Outcome:
        """What comes after the training."""
        try:
            return Outcome(image, False, self.save(image, self.segmenter.finish(prepared, learned), show))
        except Exception as error:
            return failure(image, error)

    def save(self, image: InputImage, segmentation: Segmentation, show: Show) -> str:
        """Writes the files; returns one line that starts with the path of the image."""
        steps = len(segmentation.history)
        show(steps, "saving")
        written = segmentation.save(self.output, image.stem, self.formats)
        why = " (time is up)" if segmentation.stopped == "time_budget" else ""
        seconds = segmentation.timings["total"]
        found = f"{counted(int(np.count_nonzero(segmentation.areas())), 'label')}, {counted(steps, 'step')}{why}"
        return f"{image.path}: {found}, {seconds:.1f} s -> {written[0]}"

    def steps(self) -> int | None:
        """Training may end before."""
        return self.segmenter.config.max_steps

    def settings(self, image: InputImage) -> Mapping[str, Any]:
        """The configuration, and the files that steer the image."""
        files = self.guidance.of(image)
        config = self.segmenter.config_with(bool(files))
        return {
            "config": config.model_dump(mode="json"),
            "guidance": {kind: file.described() for kind, file in files.items()},
        }
