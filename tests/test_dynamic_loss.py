"""``ops.dynamic_loss`` is ``reference.dynamic_loss``: the kernels of every instruction set, every type and format."""

from __future__ import annotations

import functools
import math
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from gradients import Tolerance, assert_gradients_close
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from dynamicseg import DynamicLoss, DynamicLossOutput, _native, reference
from dynamicseg.ops import _runtime, dynamic_loss, dynamic_loss_and_grad
from dynamicseg.weighting import WEIGHTINGS, Weighting

Tolerances = dict[torch.dtype, Tolerance]
RunPython = Callable[..., subprocess.CompletedProcess[str]]

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
FORMATS = {False: torch.contiguous_format, True: torch.channels_last}
INSTRUCTION_SETS = _native.available_instruction_sets()

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
each_format = pytest.mark.parametrize("channels_last", FORMATS, ids=["contiguous", "channels_last"])
each_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)

SHAPES = [
    *[(1, 1, 1, 1), (1, 2, 1, 1), (2, 3, 1, 1), (1, 3, 1, 37), (1, 16, 41, 1), (1, 100, 1, 5)],
    *[(1, 1, 5, 7), (1, 2, 7, 11), (1, 15, 13, 17), (3, 16, 5, 7), (1, 17, 11, 13), (2, 33, 3, 3)],
    *[(1, 100, 13, 19), (2, 129, 5, 11), (1, 300, 7, 5), (1, 1025, 2, 3)],
    *[(1, 3, 3, 2053), (1, 2, 2, 4099), (1, 5, 37, 23), (1, 2, 1, 2048), (1, 2, 9, 2049)],
    *[(0, 3, 4, 5), (1, 3, 0, 5), (2, 3, 5, 0), (0, 3, 0, 0)],
]
# Images whose gradients in float64 are above 4 MB, which are written past the caches, by other code; channels last only
# up to 1024 channels.
LARGE_IMAGES = [(100, 73, 75), (129, 2, 2053), (1024, 16, 33), (1025, 16, 33)]


@pytest.fixture(
    params=[
        *INSTRUCTION_SETS,
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ]
)
def target(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """The device of each set of kernels: one for each instruction set of this processor, and CUDA."""
    before = _native.instruction_set()
    if request.param == "cuda":
        cuda = torch.device("cuda")
        if _runtime.backend_for(cuda) == "reference":
            pytest.skip(_runtime.why(cuda))
        yield cuda
    else:
        _native.set_instruction_set(request.param)
        yield torch.device("cpu")
    _native.set_instruction_set(before)


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
    grad_loss = 1 + torch.arange(x.shape[0], dtype=torch.float64) / 4  # another one for each image
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
    names = ("weight", "similarity", "continuity", "loss")
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


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the op passes to the native core, one dictionary for each call."""
    recorded: list[dict[str, Any]] = []
    original = _native.DynamicLossParams

    def record(**params: Any) -> _native.DynamicLossParams:
        recorded.append(params)
        return original(**params)

    monkeypatch.setattr(_native, "DynamicLossParams", record)
    return recorded


# Computed once for all instruction sets.
@functools.cache
def case(
    shape: tuple[int, ...], dtype: torch.dtype, masked: bool, united: bool, weighting: Weighting
) -> tuple[Tensor, dict[str, Any], Result]:
    x = response_map(shape, dtype)
    options: dict[str, Any] = {
        "mask": holes(shape) if masked else None,
        "superpixels": blocks(shape) if united else None,
        "weighting": weighting,
    }
    return x, options, true_result(x, **options)


def to_device(options: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: option.to(device) if isinstance(option, Tensor) else option for name, option in options.items()}


class TestAgainstReference:
    @each_format
    @each_dtype
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_shapes(
        self,
        target: torch.device,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        channels_last: bool,
        tolerances: Tolerances,
    ) -> None:
        for variant, (masked, united) in enumerate([(False, False), (True, False), (True, True)]):
            weighting = WEIGHTINGS[(shape[1] + variant) % len(WEIGHTINGS)]
            x, options, expected = case(shape, dtype, masked, united, weighting)
            x = x.to(target, memory_format=FORMATS[channels_last])
            for way in WAYS:
                assert_close(way(x, **to_device(options, target)), expected, tolerances[dtype])

    @each_format
    @each_dtype
    @pytest.mark.parametrize("image", LARGE_IMAGES, ids=str)
    def test_gradients_larger_than_the_caches(
        self,
        target: torch.device,
        image: tuple[int, ...],
        dtype: torch.dtype,
        channels_last: bool,
        tolerances: Tolerances,
    ) -> None:
        shape = (8 // dtype.itemsize, *image)
        for united in (False, True) if image == LARGE_IMAGES[0] else (False,):
            x, options, expected = case(shape, dtype, True, united, "fsf")
            x = x.to(target, memory_format=FORMATS[channels_last])
            assert x.nbytes >= 4 << 20
            for way in WAYS:
                assert_close(way(x, **to_device(options, target)), expected, tolerances[dtype])

    @each_way
    @each_format
    @each_weighting
    def test_weightings(
        self, way: Way, target: torch.device, weighting: Weighting, channels_last: bool, tolerances: Tolerances
    ) -> None:
        x = response_map((2, 12, 9, 10), channels_last=channels_last)
        for mu in (None, 0.3, 1e6):
            actual = way(x.to(target), weighting=weighting, mu=mu)
            expected = true_result(x, weighting=weighting, mu=mu)
            assert_close(actual, expected, tolerances[x.dtype])

    @each_way
    @each_format
    @each_dtype
    def test_ties_go_to_the_lowest_label(
        self, way: Way, target: torch.device, dtype: torch.dtype, channels_last: bool, tolerances: Tolerances
    ) -> None:
        x = torch.randint(0, 2, (2, 37, 11, 19)).to(dtype)
        x = x.contiguous(memory_format=FORMATS[channels_last])
        actual = way(x.to(target))
        first = (x == x.amax(dim=1, keepdim=True)).to(torch.uint8).argmax(dim=1)
        assert torch.equal(actual.output.labels.cpu(), first)
        assert_close(actual, true_result(x), tolerances[dtype])

    @each_way
    @each_format
    @each_dtype
    @pytest.mark.parametrize("value", [0.0, -0.0, 2.5, -1e30])
    def test_constant_maps(
        self,
        way: Way,
        target: torch.device,
        value: float,
        dtype: torch.dtype,
        channels_last: bool,
        tolerances: Tolerances,
    ) -> None:
        x = torch.full((1, 21, 5, 18), value, dtype=dtype)
        x = x.to(target, memory_format=FORMATS[channels_last])
        actual = way(x)
        assert actual.output.labels.eq(0).all()
        assert actual.output.similarity.item() == pytest.approx(math.log(21))
        assert actual.output.continuity.item() == 0
        # float32 has no room for ln 21 beside 1e30, so that there softmax is 1 everywhere.
        if abs(value) < 1e30:
            assert_close(actual, true_result(x), tolerances[dtype])

    @each_way
    @each_format
    @each_dtype
    def test_huge_values(
        self, way: Way, target: torch.device, dtype: torch.dtype, channels_last: bool, tolerances: Tolerances
    ) -> None:
        # Without ties: beside 1e30, the logsumexp of the reference has no room for the ln 2 of two equal channels.
        x = torch.arange(37 * 13 * 29)[torch.randperm(37 * 13 * 29)].reshape(1, 37, 13, 29) % 251 - 125
        x = (x.to(dtype) * 1e28).contiguous(memory_format=FORMATS[channels_last])
        x += torch.arange(37, dtype=dtype)[:, None, None] * 1e31
        for mask in (None, holes(x.shape)):
            actual = way(x.to(target), None if mask is None else mask.to(target))
            assert_close(actual, true_result(x, mask), tolerances[dtype])

    @each_way
    @each_format
    @each_dtype
    def test_the_smallest_differences_have_a_sign(
        self, way: Way, target: torch.device, dtype: torch.dtype, channels_last: bool, tolerances: Tolerances
    ) -> None:
        smallest = torch.tensor(1, dtype={8: torch.int64, 4: torch.int32, 2: torch.int16}[dtype.itemsize])
        x = torch.randint(-2, 3, (1, 19, 7, 33)).to(dtype) * smallest.view(dtype)
        assert x.abs().max() > 0
        x = x.to(target, memory_format=FORMATS[channels_last])
        actual = way(x)
        assert_close(actual, true_result(x), tolerances[dtype])

    @each_way
    @each_format
    @pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=str)
    def test_softmax_is_accurate_in_every_element(
        self, way: Way, target: torch.device, dtype: torch.dtype, accuracy: float, channels_last: bool
    ) -> None:
        # Two channels, of which the second is 0 to 8 below the first: its gradient is its softmax, and continuity,
        # divided by 1e30, is lost in it.
        below = torch.linspace(0, 8, 5000, dtype=dtype)
        x = torch.stack([torch.zeros_like(below), -below])[None, :, None]
        x = x.contiguous(memory_format=FORMATS[channels_last])
        actual = way(x.to(target), mu=1e30).grad_x[0, 1, 0].cpu().double() * len(below)
        torch.testing.assert_close(actual, torch.sigmoid(-below.double()), rtol=accuracy, atol=0)

    @each_way
    @each_format
    def test_a_large_offset_costs_no_more_than_it_does_the_reference(
        self, way: Way, target: torch.device, channels_last: bool
    ) -> None:
        x = response_map((1, 50, 20, 30), channels_last=channels_last) + 1e4
        true = true_result(x).grad_x
        plain = differentiate(reference.dynamic_loss, x).grad_x
        actual = way(x.to(target)).grad_x.cpu()
        assert (actual - true).norm() <= 1.5 * (plain - true).norm()

    @each_way
    def test_a_photo(
        self,
        way: Way,
        target: torch.device,
        photo: Callable[[str], NDArray[np.uint8]],
        tolerances: Tolerances,
    ) -> None:
        pixels = torch.from_numpy(photo("chelsea")[:120, :161].copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            x = nn.Sequential(nn.Conv2d(3, 100, 3, padding=1), nn.BatchNorm2d(100))(pixels / 255)
        for weighting in WEIGHTINGS:
            actual = way(x.to(target), weighting=weighting)
            expected = true_result(x, weighting=weighting)
            assert_close(actual, expected, tolerances[x.dtype])

    @settings(max_examples=150, deadline=None)
    @given(
        images=st.integers(0, 3),
        channels=st.integers(1, 70),
        height=st.integers(0, 20),
        width=st.integers(0, 40),
        dtype=st.sampled_from(DTYPES),
        channels_last=st.booleans(),
        instruction_set=st.sampled_from(INSTRUCTION_SETS),
        weighting=st.sampled_from(WEIGHTINGS),
        levels=st.sampled_from([1, 2, 5, 1000]),
        masked=st.sampled_from([None, 0.0, 0.1, 0.5, 0.95, 1.0]),
        superpixels=st.sampled_from([0, 1, 4, 1000]),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_anything(
        self,
        images: int,
        channels: int,
        height: int,
        width: int,
        dtype: torch.dtype,
        channels_last: bool,
        instruction_set: str,
        weighting: Weighting,
        levels: int,
        masked: float | None,
        superpixels: int,
        seed: int,
        tolerances: Tolerances,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (images, channels, height, width)
        # Up to 2: where one channel is far above the others, softmax - 1 is mere rounding, and no tolerance fits.
        x = torch.randint(levels, shape, generator=generator).to(dtype) / levels * 2
        x = x.contiguous(memory_format=FORMATS[channels_last])
        options: dict[str, Any] = {"weighting": weighting}
        if masked is not None:
            options["mask"] = torch.rand((images, height, width), generator=generator) >= masked
        if superpixels > 0 and height * width > 0:
            count = min(superpixels, height * width)
            options["superpixels"] = torch.randint(count, (images, height, width), generator=generator)
        before = _native.instruction_set()
        _native.set_instruction_set(instruction_set)
        try:
            results = [way(x, **options) for way in WAYS]
        finally:
            _native.set_instruction_set(before)
        expected = true_result(x, **options)
        for actual in results:
            assert_close(actual, expected, tolerances[dtype])


NAN, INF = math.nan, math.inf

# Pixel (row, column), channels, value.
POISONS: dict[str, list[tuple[int, int, list[int], float]]] = {
    "nan": [(1, 1, [3], NAN)],
    "nan at the border": [(0, 0, [18], NAN), (8, 22, [0], NAN)],
    "first of two nans": [(4, 5, [17, 2], NAN)],
    "all nan": [(4, 5, list(range(19)), NAN)],
    "inf": [(4, 16, [4], INF)],
    "inf at the border": [(8, 22, [4], INF)],
    "lowest of two infs": [(4, 16, [17, 4], INF)],
    "inf beside inf": [(4, 16, [4], INF), (4, 17, [4], INF)],
    "nan beats inf": [(7, 3, [10], NAN), (7, 3, [1], INF)],
    "-inf": [(2, 15, [0, 18], -INF)],
    "-inf but one": [(2, 15, [c for c in range(19) if c != 6], -INF)],
    "all -inf": [(2, 15, list(range(19)), -INF)],
    "inf and -inf": [(6, 2, [0, 1], -INF), (6, 2, [2, 3], INF)],
}


def poisoned_map(poison: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A map, and where its pixels are finite."""
    x = response_map((1, 19, 9, 23), dtype)
    for row, column, channels, value in POISONS[poison]:
        x[0, channels, row, column] = value
    return x, x.isfinite().all(dim=1)


# Computed once for all instruction sets.
@functools.cache
def poisoned_case(
    poison: str, dtype: torch.dtype, masked: bool, united: bool
) -> tuple[Tensor, dict[str, Any], Result, Tensor]:
    """A map, options, the truth, and which elements belong to finite pixels with finite neighbours."""
    x, finite = poisoned_map(poison, dtype)
    options = {
        "mask": holes(x.shape) if masked else None,
        "superpixels": blocks(x.shape) if united else None,
    }
    valid = torch.ones_like(finite) if options["mask"] is None else options["mask"]
    near = nn.functional.pad(~finite & valid, (1, 1, 1, 1))
    beside = near[:, :-2, 1:-1] | near[:, 2:, 1:-1] | near[:, 1:-1, :-2] | near[:, 1:-1, 2:]
    clean = (finite & ~beside & valid)[:, None].expand_as(x)
    return x, options, true_result(x, **options), clean


class TestNotFinite:
    @each_format
    @each_dtype
    @pytest.mark.parametrize("poison", POISONS)
    def test_as_the_reference_and_only_where_it_is(
        self, target: torch.device, poison: str, dtype: torch.dtype, channels_last: bool, tolerances: Tolerances
    ) -> None:
        for masked, united in [(False, False), (True, False), (False, True)]:
            x, options, expected, clean = poisoned_case(poison, dtype, masked, united)
            x = x.to(target, memory_format=FORMATS[channels_last])
            for way in WAYS:
                actual = way(x, **to_device(options, target))
                assert torch.equal(actual.output.labels.cpu(), expected.output.labels)
                if united:
                    # An infinity less a number is infinite, but may be NaN where sums stand in for it.
                    for a, e in zip(actual.output[:3], expected.output[:3], strict=True):
                        assert torch.equal(a.cpu().isfinite(), e.isfinite())
                else:
                    assert_statistics_close(actual.output, expected.output, tolerances[dtype])
                assert_gradients_close(actual.grad_x.cpu()[clean], expected.grad_x[clean], tolerances[dtype].gradient)

    @each_format
    @each_dtype
    @pytest.mark.parametrize("poison", POISONS)
    def test_no_influence_under_a_mask(
        self, target: torch.device, poison: str, dtype: torch.dtype, channels_last: bool
    ) -> None:
        x, mask = poisoned_map(poison, dtype)
        x, mask = x.to(target, memory_format=FORMATS[channels_last]), mask.to(target)
        blank = x.masked_fill(~mask[:, None], 0).contiguous(memory_format=FORMATS[channels_last])
        for way in WAYS:
            for superpixels in (None, blocks(x.shape).to(target)):
                actual = way(x, mask, superpixels=superpixels)
                assert_same_bits(actual, way(blank, mask, superpixels=superpixels))
                assert actual.grad_x[~mask[:, None].expand_as(x)].eq(0).all()
                assert actual.grad_x.isfinite().all()


class TestMask:
    @each_way
    @each_format
    @each_dtype
    def test_an_image_without_a_valid_pixel_has_loss_0(
        self, way: Way, target: torch.device, dtype: torch.dtype, channels_last: bool, tolerances: Tolerances
    ) -> None:
        x = response_map((2, 7, 5, 9), dtype, channels_last)
        mask = torch.ones(2, 5, 9, dtype=torch.bool)
        mask[1] = False
        for weighting in WEIGHTINGS:
            actual = way(x.to(target), mask.to(target), weighting=weighting)
            assert_close(actual, true_result(x, mask, weighting=weighting), tolerances[dtype])
            assert actual.output.loss[1].item() == 0
            assert actual.output.label_counts[1].item() == 0
            assert actual.output.labels[1].eq(-1).all()
            assert actual.grad_x[1].eq(0).all()

    @each_way
    @each_format
    def test_one_valid_pixel(self, way: Way, target: torch.device, channels_last: bool, tolerances: Tolerances) -> None:
        x = response_map((1, 7, 5, 9), channels_last=channels_last)
        mask = torch.zeros(1, 5, 9, dtype=torch.bool)
        mask[0, 3, 4] = True
        actual = way(x.to(target), mask.to(target))
        assert_close(actual, true_result(x, mask), tolerances[x.dtype])
        assert actual.output.continuity.item() == 0
        assert actual.output.label_counts.tolist() == [1]

    @each_way
    @each_format
    def test_all_valid_is_no_mask(self, way: Way, target: torch.device, channels_last: bool) -> None:
        x = response_map((1, 20, 13, 2055), channels_last=channels_last).to(target)
        mask = torch.ones(1, 13, 2055, dtype=torch.bool, device=target)
        assert_same_bits(way(x, mask), way(x))

    @each_way
    @pytest.mark.parametrize("form", ["expanded", "transposed", "every second"])
    def test_masks_need_not_be_contiguous(self, way: Way, device: torch.device, form: str) -> None:
        x = response_map((3, 7, 12, 12)).to(device)
        base = holes((3, 1, 24, 24)).to(device)
        mask = {
            "expanded": base[:1, :12, :1].expand(3, 12, 24)[:, :, :12],
            "transposed": base[:, :12, :12].transpose(1, 2),
            "every second": base[:, ::2, ::2],
        }[form]
        assert not mask.is_contiguous()
        assert_same_bits(way(x, mask), way(x, mask.contiguous()))


class TestSuperpixels:
    @each_way
    @each_format
    def test_one_pixel_each_changes_nothing(
        self, way: Way, target: torch.device, channels_last: bool, tolerances: Tolerances
    ) -> None:
        x = response_map((2, 20, 9, 14), channels_last=channels_last)
        superpixels = torch.arange(9 * 14).view(1, 9, 14).expand(2, -1, -1)
        assert_close(way(x.to(target), superpixels=superpixels.to(target)), true_result(x), tolerances[x.dtype])

    @each_way
    @each_format
    def test_one_superpixel_leaves_one_label(
        self, way: Way, target: torch.device, channels_last: bool, tolerances: Tolerances
    ) -> None:
        x = response_map((2, 20, 9, 14), channels_last=channels_last)
        mask, superpixels = holes(x.shape), torch.zeros(2, 9, 14, dtype=torch.int64)
        actual = way(x.to(target), mask.to(target), superpixels=superpixels.to(target))
        assert actual.output.label_counts.tolist() == [1, 1]
        for image in range(2):
            votes = x[image].argmax(dim=0)[mask[image]].bincount()
            assert actual.output.labels[image][mask[image]].unique().tolist() == [int(votes.argmax())]
        assert actual.output.labels[~mask].eq(-1).all()
        assert_close(actual, true_result(x, mask, superpixels=superpixels), tolerances[x.dtype])

    @each_way
    @each_format
    def test_images_of_a_batch_do_not_share_superpixels(
        self, way: Way, target: torch.device, channels_last: bool
    ) -> None:
        x = response_map((3, 20, 31, 47), channels_last=channels_last).to(target)
        superpixels = blocks(x.shape).to(target)
        together = way(x, superpixels=superpixels).output
        for image in range(3):
            one = slice(image, image + 1)
            alone = way(x[one], superpixels=superpixels[one]).output
            for part, single in zip(together, alone, strict=True):
                assert torch.equal(part[one], single)

    def test_numbers_need_not_be_contiguous_in_memory(self, device: torch.device) -> None:
        x = response_map((3, 7, 12, 12)).to(device)
        superpixels = blocks((3, 7, 24, 24)).to(device)[:, ::2, ::2] // 2
        assert not superpixels[:, :, ::2].is_contiguous()
        assert_same_bits(
            through_autograd(x[..., :6], superpixels=superpixels[:, :, ::2]),
            through_autograd(x[..., :6], superpixels=superpixels[:, :, ::2].contiguous()),
        )

    @pytest.mark.parametrize(("numbers", "got"), [([0, -1], "from -1 to 0"), ([0, 2], "from 0 to 2")])
    def test_numbers_out_of_range_are_an_error(self, numbers: list[int], got: str) -> None:
        superpixels = torch.tensor(numbers).view(1, 1, 2)
        with pytest.raises(ValueError, match=got) as raised:
            dynamic_loss(torch.zeros(1, 3, 1, 2), superpixels=superpixels)
        assert "from 0 to less than the number of pixels" in str(raised.value)


# A view of a map [2, 20, 24, 30], and the formats of the map in which it is read where it lies.
VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], set[bool]]] = {
    "crop": (lambda x: x[:, :, 3:-2, 2:-5], {False, True}),
    "some channels": (lambda x: x[:, 2:9], {False, True}),
    "one channel": (lambda x: x[:, 3:4], {False, True}),
    "one column": (lambda x: x[..., 4:5], {False, True}),
    "last image": (lambda x: x[1:], {False, True}),
    "expanded images": (lambda x: x[:1].expand(3, -1, -1, -1), {False, True}),
    "expanded rows": (lambda x: x[:, :, :1].expand(-1, -1, 9, -1), {False, True}),
    "expanded columns": (lambda x: x[..., :1].expand(-1, -1, -1, 9), {True}),
    "expanded channels": (lambda x: x[:, :1].expand(-1, 9, -1, -1), {False}),
    "every second row": (lambda x: x[:, :, ::2], {False, True}),
    "every second pixel": (lambda x: x[:, :, ::2, ::2], {True}),
    "every second channel": (lambda x: x[:, ::2], {False}),
    "transposed": (lambda x: x.transpose(2, 3), {True}),
    "channels and rows exchanged": (lambda x: x.transpose(1, 2), {False}),
    "flipped": (lambda x: x.flip(2, 3), {False, True}),
}


class TestMemory:
    @each_way
    @each_dtype
    @each_format
    @pytest.mark.parametrize("view", VIEWS)
    def test_views_are_read_where_they_lie(
        self, way: Way, view: str, dtype: torch.dtype, channels_last: bool, calls: list[dict[str, Any]]
    ) -> None:
        make, read_in_place = VIEWS[view]
        x = make(response_map((2, 20, 24, 30), dtype, channels_last))
        mask = holes(x.shape)
        actual = way(x, mask)
        addresses = {call["x"] for call in calls}
        assert (addresses == {x.data_ptr()}) == (channels_last in read_in_place)
        dense = x.contiguous(memory_format=FORMATS[calls[0]["format"] == "channels_last" and x.shape[1] > 1])
        assert_same_bits(actual, way(dense, mask))

    @each_way
    @each_dtype
    def test_maps_at_odd_addresses(self, way: Way, target: torch.device, dtype: torch.dtype) -> None:
        x = response_map((1, 7, 9, 11), dtype).to(target)
        shifted = torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x)
        assert_same_bits(way(shifted), way(x))

    @each_way
    @each_format
    def test_strides_above_32_bits(self, way: Way, target: torch.device, channels_last: bool) -> None:
        far = 2**31 + 100
        try:
            memory = torch.empty(2 * far + 200, dtype=torch.bfloat16, device=target)  # hardly any of it is touched
        except RuntimeError:
            pytest.skip("the system does not lend so much memory")
        shape, strides = ((1, 5, 3, 7), (0, 1, far, 5)) if channels_last else ((1, 3, 5, 7), (0, far, 7, 1))
        x = memory.as_strided(shape, strides)
        x.copy_(response_map(shape, torch.bfloat16, channels_last))
        assert_same_bits(way(x), way(x.contiguous(memory_format=FORMATS[channels_last])))

    @each_way
    def test_lazily_negated_maps(self, way: Way, device: torch.device) -> None:
        x = torch.randn(1, 5, 6, 7, dtype=torch.complex64, device=device).conj().imag
        assert x.is_neg()
        assert_same_bits(way(x), way(x.resolve_neg().contiguous()))

    @each_way
    @each_dtype
    @each_format
    @pytest.mark.parametrize("shape", [(2, 7, 5, 9), (1, 100, 110, 210)], ids=["small", "large"])
    def test_gradient_is_in_the_format_and_type_of_the_map(
        self, way: Way, device: torch.device, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool
    ) -> None:
        x = response_map(shape, dtype, channels_last).to(device)
        actual = way(x)
        assert actual.grad_x.dtype == dtype
        assert actual.grad_x.stride() == x.stride()

    @each_dtype
    def test_types_of_the_output(self, device: torch.device, dtype: torch.dtype) -> None:
        output = dynamic_loss(response_map((2, 7, 5, 9), dtype).to(device))
        statistic = torch.float64 if dtype == torch.float64 else torch.float32
        assert [getattr(output, name).dtype for name in ("loss", "similarity", "continuity")] == [statistic] * 3
        assert output.weight.dtype == statistic
        assert output.labels.dtype == output.label_counts.dtype == torch.int64
        assert output.labels.shape == (2, 5, 9)
        assert {tuple(part.shape) for part in output[:5]} == {(2,)}
        assert all(part.device.type == device.type for part in output)

    def test_gradients_outlive_the_calls_that_follow(self) -> None:
        # Memory of large results is used again: only once nobody holds it any more.
        x = response_map((1, 64, 130, 130))
        _, first = dynamic_loss_and_grad(x)
        truth = first.clone()
        part = first[:, 3]
        _, second = dynamic_loss_and_grad(-x)
        assert torch.equal(first, truth)
        assert not torch.equal(second, truth)
        del first, second
        _, third = dynamic_loss_and_grad(-x)
        assert torch.equal(part, truth[:, 3])
        del part, third
        for _ in range(3):
            assert torch.equal(dynamic_loss_and_grad(x)[1], truth)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
    def test_peak_is_the_gradient_and_the_labels(self, run_python: RunPython) -> None:
        script = """
import torch
from dynamicseg.ops import dynamic_loss, dynamic_loss_and_grad

def resident(line):
    with open("/proc/self/status") as status:
        return next(int(text.split()[1]) * 1024 for text in status if text.startswith(line))

def run(x):
    grad_x, = torch.autograd.grad((output := dynamic_loss(x)).loss.sum(), x)
    return output, grad_x

run(torch.randn(1, 100, 30, 40, requires_grad=True))
x = torch.randn(1, 100, 321, 481, requires_grad=True)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = resident("VmRSS")
output, grad_x = run(x)
print((resident("VmHWM") - before) / (grad_x.nbytes + output.labels.nbytes))
"""
        done = run_python(script)
        if "PermissionError" in done.stderr:
            pytest.skip("the system does not let a process reset its peak memory")
        assert done.returncode == 0, done.stderr
        # Less than 1 would mean that the gradient was not measured.
        assert 0.9 < float(done.stdout) < 1.1

    def test_no_gradient_is_computed_where_none_is_wanted(
        self, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def backward(_: _native.DynamicLossParams) -> None:
            raise AssertionError("a gradient was computed")

        monkeypatch.setattr(_native, "dynamic_loss_backward", backward)
        x = response_map((1, 7, 5, 9))
        assert not dynamic_loss(x).loss.requires_grad
        with torch.no_grad():
            assert not dynamic_loss(x.requires_grad_()).loss.requires_grad
        assert dynamic_loss(x).loss.requires_grad
        assert [call["grad_x"] for call in calls] == [0, 0, 0]
        with pytest.raises(AssertionError, match="a gradient was computed"):
            torch.autograd.grad(dynamic_loss(x).loss, x)


class TestDeterminism:
    @each_way
    @each_format
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
    @pytest.mark.parametrize("shape", [(2, 17, 67, 131), (1, 90, 120, 211)], ids=str)
    def test_same_bits_for_any_number_of_anyones_threads(
        self,
        way: Way,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        channels_last: bool,
        threads: Callable[[int], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        x, mask = response_map(shape, dtype, channels_last), holes(shape)
        superpixels = blocks(shape)
        first, first_united = way(x, mask), way(x, mask, superpixels=superpixels)
        for _ in range(3):
            assert_same_bits(way(x, mask), first)
        for openmp in (True, False):
            if not openmp:
                monkeypatch.setattr(_runtime, "openmp_parallel", lambda: 0)
                _native.set_threads(1, 0)
            for count in (1, 2, 3):
                threads(count)
                assert_same_bits(way(x, mask), first)
                assert_same_bits(way(x, mask, superpixels=superpixels), first_united)
                assert _native.thread_count() == count
                assert _native.uses_openmp() == (openmp and _runtime.openmp_parallel() != 0)

    @each_format
    def test_a_batch_is_its_images_one_by_one(self, target: torch.device, channels_last: bool) -> None:
        x = response_map((3, 20, 31, 47), channels_last=channels_last).to(target)
        mask = holes(x.shape).to(target)
        output, grad_x = dynamic_loss_and_grad(x, mask=mask)
        for image in range(3):
            one = slice(image, image + 1)
            alone, grad_alone = dynamic_loss_and_grad(x[one], mask=mask[one])
            for together, single in zip(output, alone, strict=True):
                assert torch.equal(together[one], single)
            assert_gradients_close(grad_x[one] * 3, grad_alone, 1e-6)

    @each_way
    def test_two_python_threads_at_once(self, way: Way) -> None:
        maps = [response_map((1, 30, 40 + i, 50), channels_last=i == 1) for i in range(2)]
        expected = [way(x) for x in maps]
        start = threading.Barrier(len(maps))
        failures: list[BaseException] = []

        def work(index: int) -> None:
            try:
                start.wait()
                for _ in range(30):
                    assert_same_bits(way(maps[index]), expected[index])
            except BaseException as failure:
                failures.append(failure)

        workers = [threading.Thread(target=work, args=(index,)) for index in range(len(maps))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not failures


class TestAutograd:
    @each_weighting
    @each_format
    @pytest.mark.parametrize("options", ["", "mask", "superpixels", "mask and superpixels"])
    def test_gradcheck(self, weighting: Weighting, channels_last: bool, options: str) -> None:
        # Numbers 0.1 apart, so that no step of the check meets a tie or a kink.
        shape = (2, 3, 4, 5)
        x = (torch.randperm(2 * 3 * 4 * 5).reshape(shape) / 10).double()
        x = x.contiguous(memory_format=FORMATS[channels_last]).requires_grad_()
        mask = holes(shape) if "mask" in options else None
        superpixels = blocks(shape) if "superpixels" in options else None
        loss = functools.partial(dynamic_loss, weighting=weighting, mask=mask, superpixels=superpixels)
        assert torch.autograd.gradcheck(lambda x: loss(x).loss, (x,))

    def test_backward_twice(self, device: torch.device) -> None:
        x = response_map((2, 7, 5, 9)).to(device).requires_grad_()
        loss = dynamic_loss(x).loss.sum()
        (first,) = torch.autograd.grad(loss, x, retain_graph=True)
        (second,) = torch.autograd.grad(loss, x)
        assert torch.equal(first, second)

    def test_gradients_accumulate(self, device: torch.device) -> None:
        x = response_map((2, 7, 5, 9)).to(device).requires_grad_()
        (once,) = torch.autograd.grad(dynamic_loss(x).loss.sum(), x)
        for _ in range(2):
            torch.autograd.backward(dynamic_loss(x).loss.sum())
        assert x.grad is not None
        torch.testing.assert_close(x.grad, 2 * once)

    @pytest.mark.parametrize("scale", [0.0, -3.0, 1e-3])
    def test_scaled_by_the_arriving_gradient(self, device: torch.device, scale: float) -> None:
        x = response_map((2, 7, 5, 9)).to(device).requires_grad_()
        (grad_x,) = torch.autograd.grad(dynamic_loss(x).loss.sum(), x)
        (scaled,) = torch.autograd.grad(dynamic_loss(x).loss.sum() * scale, x)
        torch.testing.assert_close(scaled, grad_x * scale)

    def test_each_image_by_its_own_arriving_gradient(self, device: torch.device) -> None:
        x = response_map((3, 7, 5, 9)).to(device).requires_grad_()
        scales = torch.tensor([2.0, 0.0, -0.5], device=device)
        (grad_x,) = torch.autograd.grad(dynamic_loss(x).loss.sum(), x)
        (scaled,) = torch.autograd.grad(dynamic_loss(x).loss, x, scales)
        torch.testing.assert_close(scaled, grad_x * scales[:, None, None, None])

    def test_only_the_loss_has_a_gradient(self, device: torch.device) -> None:
        output = dynamic_loss(response_map((2, 7, 5, 9)).to(device).requires_grad_())
        wanted = {"loss"}
        assert {n for n in output._fields if getattr(output, n).requires_grad} == wanted

    def test_a_map_changed_before_the_backward_pass_is_an_error(self) -> None:
        x = response_map((1, 7, 5, 9)).requires_grad_()
        changed = x * 1
        loss = dynamic_loss(changed).loss.sum()
        changed.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(loss, x)

    def test_a_second_derivative_is_an_error(self) -> None:
        x = response_map((1, 7, 5, 9)).requires_grad_()
        (grad_x,) = torch.autograd.grad(dynamic_loss(x).loss.sum(), x, create_graph=True)
        with pytest.raises(RuntimeError):
            torch.autograd.grad(grad_x.square().sum(), x)

    @each_format
    def test_loss_and_grad_is_the_mean_over_the_batch(
        self, device: torch.device, channels_last: bool, tolerances: Tolerances
    ) -> None:
        x = response_map((3, 7, 5, 9), channels_last=channels_last).to(device).requires_grad_()
        output, grad_x = dynamic_loss_and_grad(x)
        (expected,) = torch.autograd.grad(dynamic_loss(x).loss.mean(), x)
        assert_gradients_close(grad_x, expected, tolerances[x.dtype].gradient)
        assert not any(part.requires_grad for part in (*output, grad_x))
        assert x.grad is None

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_loss_and_grad_without_autograd(self, mode: Callable[[], Any]) -> None:
        x = response_map((1, 7, 5, 9))
        _, expected = dynamic_loss_and_grad(x)
        with mode():
            assert torch.equal(dynamic_loss_and_grad(x)[1], expected)

    @pytest.mark.parametrize("weighting", ["fsf", "scf"])
    def test_twenty_steps_of_training(self, weighting: Weighting) -> None:
        def train(loss: Callable[[Tensor], DynamicLossOutput]) -> tuple[list[float], Tensor]:
            torch.manual_seed(1)
            network = nn.Sequential(
                *[nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(12)],
                *[nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12)],
            ).double()
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
            image = torch.rand(2, 3, 20, 24, dtype=torch.float64)
            history = []
            for _ in range(20):
                optimizer.zero_grad()
                output = loss(network(image))
                torch.autograd.backward(output.loss.mean())
                optimizer.step()
                history.append(output.loss.mean().item())
            return history, nn.utils.parameters_to_vector(network.parameters()).detach()

        history, weights = train(DynamicLoss(weighting))
        expected_history, expected_weights = train(functools.partial(reference.dynamic_loss, weighting=weighting))
        assert len(set(history)) == 20
        assert history == pytest.approx(expected_history, rel=1e-9)
        torch.testing.assert_close(weights, expected_weights, rtol=1e-8, atol=1e-8)


class TestTorchLibrary:
    @each_format
    @each_dtype
    @pytest.mark.parametrize("options", ["", "mask", "mask and superpixels"])
    def test_opcheck(self, dtype: torch.dtype, channels_last: bool, options: str) -> None:
        x = response_map((2, 5, 6, 7), dtype, channels_last)
        mask = holes(x.shape) if "mask" in options else None
        superpixels = blocks(x.shape) if "superpixels" in options else None
        namespace = torch.ops.dynamicseg
        for leaf in (x, x.clone().requires_grad_()):
            torch.library.opcheck(namespace.dynamic_loss, (leaf, mask, superpixels, "fsf", 15.0))
        torch.library.opcheck(namespace.dynamic_loss_and_grad, (x, mask, superpixels, "scf", 50.0))
        _, _, _, weight, _, labels, logsumexp = namespace.dynamic_loss(x, mask, superpixels, "fixed", 1.0)
        arguments = (torch.ones_like(weight), x, mask, labels, logsumexp, weight)
        torch.library.opcheck(namespace.dynamic_loss_backward, arguments)

    def test_opcheck_of_large_results(self) -> None:
        x = response_map((1, 100, 110, 101))
        torch.library.opcheck(torch.ops.dynamicseg.dynamic_loss_and_grad, (x, None, None, "scf", 50.0))

    # PyTorch's own, while it loads inductor.
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
    def test_compile(self, backend: str) -> None:
        if backend == "inductor" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            pytest.skip("inductor needs a C++ compiler")

        def train(x: Tensor, mask: Tensor | None) -> tuple[DynamicLossOutput, Tensor]:
            output = DynamicLoss("scf", reduction="none")(x * 2, mask)
            return output, (output.loss * output.label_counts).sum()

        torch.compiler.reset()
        compiled = torch.compile(train, fullgraph=True, backend=backend)
        for masked in (False, True):
            x = response_map((2, 6, 11, 9)).requires_grad_()
            mask = holes(x.shape) if masked else None
            output, total = compiled(x, mask)
            expected, expected_total = train(x, mask)
            for part, true in zip(output, expected, strict=True):
                torch.testing.assert_close(part, true)
            (grad_x,) = torch.autograd.grad(total, x)
            torch.testing.assert_close(grad_x, torch.autograd.grad(expected_total, x)[0])

    @each_format
    def test_export_with_dynamic_shapes(self, channels_last: bool) -> None:
        sizes = {name: torch.export.Dim(name, min=2, max=512) for name in ("height", "width")}
        exported = torch.export.export(
            DynamicLoss(),
            (response_map((2, 6, 11, 9), channels_last=channels_last),),
            dynamic_shapes={"x": {2: sizes["height"], 3: sizes["width"]}},
        )
        x = response_map((2, 6, 23, 17), channels_last=channels_last)
        actual = exported.module()(x)
        for part, true in zip(actual, DynamicLoss()(x), strict=True):
            assert torch.equal(part, true)


def a_map() -> Tensor:
    return torch.zeros(2, 3, 4, 5)


A_MASK = torch.ones(2, 4, 5, dtype=torch.bool)

# A call, and the kind of error, what was passed, and what should have been.
MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str, str]] = {
    "array": (lambda: dynamic_loss(np.zeros((1, 2, 3, 4))), TypeError, "ndarray", "torch.Tensor"),  # type: ignore[arg-type]
    "3 dimensions": (lambda: dynamic_loss(a_map()[0]), ValueError, "[3, 4, 5]", "[B, C, H, W]"),
    "5 dimensions": (lambda: dynamic_loss(a_map()[None]), ValueError, "[1, 2, 3, 4, 5]", "[B, C, H, W]"),
    "no channel": (lambda: dynamic_loss(a_map()[:, :0]), ValueError, "[2, 0, 4, 5]", "C >= 1"),
    "float16": (lambda: dynamic_loss(a_map().half()), TypeError, "torch.float16", "bfloat16"),
    "int64": (lambda: dynamic_loss(a_map().long()), TypeError, "torch.int64", "float32"),
    "weighting": (lambda: dynamic_loss(a_map(), weighting="FSF"), ValueError, "'FSF'", "fsf, scf, fixed"),  # type: ignore[arg-type]
    "mu 0": (lambda: dynamic_loss(a_map(), mu=0), ValueError, "mu is 0.0", "> 0"),
    "mu negative": (lambda: dynamic_loss(a_map(), mu=-1), ValueError, "mu is -1.0", "> 0"),
    "mu nan": (lambda: dynamic_loss(a_map(), mu=NAN), ValueError, "mu is nan", "finite"),
    "mu inf": (lambda: dynamic_loss(a_map(), mu=INF), ValueError, "mu is inf", "finite"),
    "mask array": (lambda: dynamic_loss(a_map(), mask=A_MASK.numpy()), TypeError, "ndarray", "bool tensor"),  # type: ignore[arg-type]
    "mask uint8": (lambda: dynamic_loss(a_map(), mask=A_MASK.byte()), TypeError, "torch.uint8", "bool tensor"),
    "mask without batch": (lambda: dynamic_loss(a_map(), mask=A_MASK[0]), ValueError, "[4, 5]", "[B, H, W]"),
    "mask transposed": (lambda: dynamic_loss(a_map(), mask=A_MASK.mT), ValueError, "[2, 5, 4]", "[B, H, W]"),
    "mask elsewhere": (lambda: dynamic_loss(a_map(), mask=A_MASK.to("meta")), ValueError, "meta", "move"),
    "superpixels array": (
        lambda: dynamic_loss(a_map(), superpixels=A_MASK.numpy()),  # type: ignore[arg-type]
        TypeError,
        "ndarray",
        "int64 tensor",
    ),
    "superpixels int32": (
        lambda: dynamic_loss(a_map(), superpixels=A_MASK.int()),
        TypeError,
        "torch.int32",
        "int64 tensor",
    ),
    "superpixels without batch": (
        lambda: dynamic_loss(a_map(), superpixels=A_MASK[0].long()),
        ValueError,
        "[4, 5]",
        "[B, H, W]",
    ),
    "loss and grad": (lambda: dynamic_loss_and_grad(a_map(), mu=0), ValueError, "mu is 0.0", "> 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_say_what_was_passed_and_what_is_wanted(mistake: str) -> None:
    call, kind, got, wanted = MISTAKES[mistake]
    with pytest.raises(kind, match=re.escape(got)) as raised:
        call()
    text = str(raised.value)
    assert wanted in text
    assert "\n" not in text
