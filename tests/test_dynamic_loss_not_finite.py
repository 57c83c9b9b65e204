"""``ops.dynamic_loss`` of maps with NaN and infinities."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from dynamic_loss_cases import (
    FORMATS,
    WAYS,
    Result,
    Tolerances,
    assert_same_bits,
    assert_statistics_close,
    blocks,
    each_dtype,
    each_format,
    holes,
    response_map,
    to_device,
    true_result,
)
from gradients import assert_gradients_close
from torch import Tensor, nn

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
