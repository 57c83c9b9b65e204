"""Segmenters that work in the stages of a GPU with no GPU, and fail in them. Worker processes import them by name.

As a program: ``staged.py INPUT OUT MAX_STEPS`` segments with them as ``dynamicseg segment`` does on a GPU.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from dynamicseg.batch import Batch
from dynamicseg.exit_status import TERMINATED
from dynamicseg.gpu_training import GpuTrainer
from dynamicseg.inputs import find_images
from dynamicseg.segment_work import SegmentWork
from dynamicseg.segmenter import Prepared, Segmenter


class StagedSegmenter(Segmenter):
    """Trains as on a GPU, but on the CPU. A process that prepares a file called ``deadly...`` is killed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "device": "cpu"})
        self.config = self.config.model_copy(update={"loss": "fused"})
        self._gpu_trainer = GpuTrainer(self.config)

    def prepare(self, image: object, **options: Any) -> Prepared:
        if "deadly" in os.path.basename(str(image)):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(image, **options)


def main(source: str, output: str, max_steps: str) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    segmenter = StagedSegmenter(preset="paper", max_steps=int(max_steps), min_labels=1)
    work = SegmentWork(Path(output), ("png", "json"), None, 1, segmenter=segmenter)
    return Batch(work, verbose=True).run(find_images([source]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
