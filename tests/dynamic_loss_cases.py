"""Maps, masks, superpixels and comparisons that the tests of ``ops.dynamic_loss`` share."""

from __future__ import annotations

import functools
import itertools
import math
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from gradients import Tolerance, assert_gradients_close
from torch import Tensor

from dynamicseg import DynamicLossOutput, _native, reference
from dynamicseg.ops import dynamic_loss, dynamic_loss_and_grad
from dynamicseg.ops._loss_arguments import LossArguments, checked_arguments
from dynamicseg.weighting import WEIGHTINGS

Tolerances = dict[torch.dtype, Tolerance]
RunPython = Callable[..., subprocess.CompletedProcess[str]]

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
FORMATS = {False: torch.contiguous_format, True: torch.channels_last}
INSTRUCTION_SETS = _native.available_instruction_sets()

OPTIONS = ("huber", "diagonals", "scribbles", "guide", "mask", "superpixels", "floor")
# Any two of the seven on or off in all four ways; and all of them at once.
PAIRWISE = [
    *[(a, b, c, a ^ b, a ^ c, b ^ c, a ^ b ^ c) for a, b, c in itertools.product((False, True), repeat=3)],
    (True,) * 7,
]

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
each_dtype_of_target = pytest.mark.parametrize(
    "dtype", [*DTYPES, torch.float16], ids=lambda dtype: str(dtype).removeprefix("torch.")
)
each_format = pytest.mark.parametrize("channels_last", FORMATS, ids=["contiguous", "channels_last"])
each_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


def response_map(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, channels_last: bool = False) -> Tensor:
    """Random logits, some of them equal."""
    generator = torch.Generator().manual_seed(math.prod(shape) + len(shape))
    x = torch.randn(shape, generator=generator) * 3
    x = torch.where(torch.rand(shape, generator=generator) < 0.2, x.round(), x)
    return x.to(dtype).contiguous(memory_format=FORMATS[channels_last])


def holes(shape: tuple[int, ...]) -> Tensor:
    """A mask with about a third of the pixels missing."""
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.rand((shape[0], *shape[2:]), generator=generator) > 0.3


def arriving_gradient(images: int) -> Tensor:
    """Another one for each image."""
    return 1 + torch.arange(images, dtype=torch.float64) / 4


def blocks(shape: tuple[int, ...]) -> Tensor:
    """Superpixels of about three by four pixels, and here and there a pixel that belongs to another one."""
    images, _, height, width = shape
    across = -(-width // 4)
    numbers = torch.arange(height)[:, None] // 3 * across + torch.arange(width) // 4
    numbers = numbers.expand(images, -1, -1).clone()
    if numbers.numel() > 0:
        numbers.flatten()[::7] = numbers.max() // 2
    return numbers


def some_labels(shape: tuple[int, ...], share: float, seed: int = 0) -> Tensor:
    """Scribbles, or a guide, on about this share of the pixels; -1 elsewhere."""
    images, channels, height, width = shape
    generator = torch.Generator().manual_seed(math.prod(shape) + seed)
    labels = torch.randint(channels, (images, height, width), generator=generator)
    return labels.where(torch.rand((images, height, width), generator=generator) < share, torch.tensor(-1))


def options_of(shape: tuple[int, ...], chosen: tuple[bool, ...]) -> dict[str, Any]:
    """Those of ``OPTIONS`` that are chosen, as arguments for a map of this shape."""
    on = dict(zip(OPTIONS, chosen, strict=True))
    return {
        "weighting": ("fsf", "scf", "fixed")[sum(chosen) % 3],
        "continuity": "huber" if on["huber"] else "l1",
        "diagonals": on["diagonals"],
        "scribbles": some_labels(shape, 0.3) if on["scribbles"] else None,
        "guide": some_labels(shape, 0.7, seed=1) if on["guide"] else None,
        "guide_weight": torch.linspace(0.2, 1.5, shape[0]) if on["guide"] else 1.0,
        "mask": holes(shape) if on["mask"] else None,
        "superpixels": blocks(shape) if on["superpixels"] else None,
        "label_floor": 7 if on["floor"] else 1,
    }


def op_arguments(x: Tensor, **options: Any) -> LossArguments:
    """The arguments of the operators of ``torch.ops.dynamicseg`` that follow the map."""
    defaults = dict.fromkeys(("mask", "superpixels", "superpixel_count", "scribbles", "guide", "mu"))
    others = {"weighting": "fsf", "continuity": "l1", "diagonals": False, "label_floor": 1, "guide_weight": 1.0}
    given: dict[str, Any] = {**defaults, **others, **options}
    return checked_arguments("x", x, **given)


@dataclass(frozen=True)
class Result:
    output: DynamicLossOutput
    grad_x: Tensor
    grad_loss: Tensor
    """``[B]`` float64: the gradient that arrived for the loss of each image."""


def differentiate(
    loss: Callable[..., DynamicLossOutput], x: Tensor, mask: Tensor | None = None, **options: Any
) -> Result:
    leaf = x.detach().requires_grad_()
    output = loss(leaf, mask=mask, **options)
    grad_loss = arriving_gradient(x.shape[0])
    (grad_x,) = torch.autograd.grad(output.loss, leaf, grad_loss.to(output.loss))
    return Result(output._replace(loss=output.loss.detach()), grad_x, grad_loss)


def through_autograd(x: Tensor, mask: Tensor | None = None, **options: Any) -> Result:
    return differentiate(dynamic_loss, x, mask, **options)


def in_one_call(x: Tensor, mask: Tensor | None = None, **options: Any) -> Result:
    output, grad_x = dynamic_loss_and_grad(x, mask=mask, **options)
    images = x.shape[0]
    return Result(output, grad_x, torch.full((images,), 1 / max(images, 1), dtype=torch.float64))


WAYS = (through_autograd, in_one_call)
each_way = pytest.mark.parametrize("way", WAYS)
Way = Callable[..., Result]


def true_result(x: Tensor, mask: Tensor | None = None, **options: Any) -> Result:
    """The reference in float64, on the very values of ``x``."""
    return differentiate(reference.dynamic_loss, x.cpu().double(), None if mask is None else mask.cpu(), **options)


def assert_statistics_close(actual: DynamicLossOutput, expected: DynamicLossOutput, tolerance: Tolerance) -> None:
    assert torch.equal(actual.labels.cpu(), expected.labels)
    assert torch.equal(actual.label_counts.cpu(), expected.label_counts)
    names = ("weight", "similarity", "continuity", "scribble", "guide", "loss")
    torch.testing.assert_close(
        {name: getattr(actual, name).cpu().double() for name in names},
        {name: getattr(expected, name) for name in names},
        rtol=tolerance.statistic,
        atol=tolerance.statistic,
        equal_nan=True,
    )


def assert_close(actual: Result, expected: Result, tolerance: Tolerance) -> None:
    assert_statistics_close(actual.output, expected.output, tolerance)
    scale = actual.grad_loss / expected.grad_loss
    assert_gradients_close(actual.grad_x, expected.grad_x * scale[:, None, None, None], tolerance.gradient)


def assert_same_bits(actual: Result, expected: Result) -> None:
    exactly = functools.partial(torch.testing.assert_close, rtol=0, atol=0, equal_nan=True)
    exactly(actual.output._asdict(), expected.output._asdict())
    exactly(actual.grad_x, expected.grad_x)


def to_device(options: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: option.to(device) if isinstance(option, Tensor) else option for name, option in options.items()}
