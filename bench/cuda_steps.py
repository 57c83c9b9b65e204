"""Training steps on a GPU as a CUDA graph, as ``segment --device cuda`` runs them, and several of them at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynamicseg._words import counted
from dynamicseg.bench.step_competitors import Step, soft_image
from dynamicseg.bench.timing import MILLISECONDS, Timing
from dynamicseg.config import SegmenterConfig
from dynamicseg.gpu_training import GpuTrainer

GRAPH = "fused, CUDA graph"
TOGETHER = (1, 2, 4, 8)
"""How many images are trained on at a time."""

_RECORDED_STEPS = 100_000  # of which a captured step keeps losses: more than are ever measured


def graph_step(image: Tensor, config: SegmenterConfig) -> Step:
    """A step of ``gpu_training``, replayed."""
    trainer = GpuTrainer(config.model_copy(update={"max_steps": _RECORDED_STEPS}))
    captured = trainer.prepare([image])
    done = 0

    def step() -> Tensor:
        nonlocal done
        captured.run()
        done += 1
        return captured.steps[0].losses[done - 1]

    return step


def several_at_a_time(
    size: tuple[int, int], config: SegmenterConfig, repeats: int, steps: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Times of a step with several networks, each on an image of its own, of ``size`` and of half of it.

    Each entry has ``size``, ``images`` (how many at a time), ``ms`` (of a step of all of them) and ``ms_per_image``
    (its median over their number).
    """
    entries = []
    for height, width in (size, (max(size[0] // 2, 2), max(size[1] // 2, 2))):
        for count in TOGETHER:
            tell(f"{counted(count, 'image')} of {height}x{width} at a time")
            images = [soft_image((height, width), "cuda") for _ in range(count)]
            trainer = GpuTrainer(config.model_copy(update={"max_steps": _RECORDED_STEPS}))
            timing = _timing(trainer.prepare(images).run, repeats, steps)
            entries.append(
                {
                    "size": [height, width],
                    "images": count,
                    "ms": timing.as_dict(),
                    "ms_per_image": timing.median / count,
                }
            )
    return entries


def _timing(run: Callable[[], None], repeats: int, steps: int) -> Timing:
    milliseconds = []
    for _ in range(repeats):
        run()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            run()
        torch.cuda.synchronize()
        milliseconds.append((time.perf_counter() - start) * MILLISECONDS / steps)
    return Timing(tuple(milliseconds))
