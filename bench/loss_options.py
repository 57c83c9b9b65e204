"""What the optional terms cost in the fused loss: the base case, each of them alone, all of them, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynamicseg import ops
from dynamicseg.bench.timing import Case, Timing

BASE = "base"
SCRIBBLED = 0.05
"""Share of the pixels that have a scribble."""

PASSES = ("forward+backward", "one call")
"""Through autograd, and without."""


def options_of(shape: Sequence[int], device: str = "cpu") -> dict[str, dict[str, Any]]:
    """Arguments of the loss of a map ``[B, C, H, W]``, by the name of the option. The guide has a label everywhere."""
    images, channels, height, width = shape
    generator = torch.Generator(device).manual_seed(1)

    def labels(share: float) -> Tensor:
        drawn = torch.rand(images, height, width, generator=generator, device=device) < share
        numbers = torch.randint(channels, (images, height, width), generator=generator, device=device)
        return numbers.masked_fill(~drawn, -1)

    options: dict[str, dict[str, Any]] = {
        "huber": {"continuity": "huber"},
        "diagonals": {"diagonals": True},
        "label floor": {"label_floor": 20},
        "scribbles": {"scribbles": labels(SCRIBBLED)},
        "guide": {"guide": labels(1.0), "guide_weight": torch.ones(images, device=device)},
    }
    together = {name: value for option in options.values() for name, value in option.items()}
    return {BASE: {}, **options, "all": together}


def option_cases(maps: Sequence[Tensor]) -> dict[tuple[str, str], Case]:
    """What is timed on the leaves ``maps``, by pass and option."""
    cases: dict[tuple[str, str], Case] = {}
    for name, options in options_of(maps[0].shape, maps[0].device.type).items():
        cases[PASSES[0], name] = partial(_through_autograd, maps, options)
        cases[PASSES[1], name] = partial(_in_one_call, maps, options)
    return cases


def _through_autograd(maps: Sequence[Tensor], options: dict[str, Any], index: int) -> None:
    torch.autograd.backward(ops.dynamic_loss(maps[index], **options).loss.mean())
    maps[index].grad = None


def _in_one_call(maps: Sequence[Tensor], options: dict[str, Any], index: int) -> object:
    return ops.dynamic_loss_and_grad(maps[index], **options)


def option_results(timings: Mapping[tuple[str, str], Timing]) -> list[dict[str, Any]]:
    """One entry for each pass and option: ``ms``, and ``times_base``, the ratio of medians to the base case."""
    return [
        {
            "pass": which,
            "option": name,
            "ms": timings[which, name].as_dict(),
            "times_base": timings[which, name].median / timings[which, BASE].median,
        }
        for which, name in timings
    ]
