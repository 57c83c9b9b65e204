"""``ops.dynamic_loss`` is ``reference.dynamic_loss``: the kernels of every instruction set, every type and format."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from dynamic_loss_cases import (
    DTYPES,
    FORMATS,
    INSTRUCTION_SETS,
    WAYS,
    Result,
    Tolerances,
    Way,
    assert_close,
    blocks,
    differentiate,
    each_dtype,
    each_dtype_of_target,
    each_format,
    each_way,
    each_weighting,
    holes,
    response_map,
    to_device,
    true_result,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from dynamicseg import _native, reference
from dynamicseg.weighting import WEIGHTINGS, Weighting

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


class TestAgainstReference:
    @each_format
    @each_dtype_of_target
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
    @each_dtype_of_target
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
    @each_dtype_of_target
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
