"""The CUDA kernels on the host give the same bits however they are launched and in whatever order their warps run."""

from __future__ import annotations

from typing import Any

import cuda_on_host
import pytest
import torch
from dynamic_loss_cases import (
    Result,
    assert_same_bits,
    blocks,
    each_format,
    holes,
    in_one_call,
    options_of,
    response_map,
)

from dynamicseg.ops import BatchNormGrads, DynamicLossOutput, batch_norm_dynamic_loss_and_grad, relu_batch_norm

SHAPE = (3, 19, 9, 23)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mask": {"mask": holes(SHAPE)},
    "superpixels": {"superpixels": blocks(SHAPE)},
    "both": {"mask": holes(SHAPE), "superpixels": blocks(SHAPE)},
    "scribbles and guide": options_of(SHAPE, (False, False, True, True, False, False, False)),
    "all": options_of(SHAPE, (True,) * 7),
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def loss(dtype: torch.dtype, channels_last: bool, options: dict[str, Any]) -> Result:
    return in_one_call(response_map(SHAPE, dtype, channels_last), **options)


@each_option
@each_dtype
@each_format
@pytest.mark.parametrize("l2_bytes", [1 << 10, 1 << 20], ids=["image after image", "all images together"])
def test_one_cooperative_kernel_is_several_kernels(
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    dtype: torch.dtype,
    channels_last: bool,
    l2_bytes: int,
) -> None:
    results = []
    for cooperative in (False, True):
        with cuda_on_host.kernels(monkeypatch, cooperative=cooperative) as library:
            cuda_on_host.set_device(library, l2_bytes=l2_bytes)
            results.append(loss(dtype, channels_last, options))
    assert_same_bits(results[1], results[0])


def test_a_device_without_cooperative_launches_takes_several_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda_on_host.kernels(monkeypatch, cooperative=True) as library:
        expected = loss(torch.float32, True, {})
        cuda_on_host.set_device(library, cooperative_launch=False)
        assert_same_bits(loss(torch.float32, True, {}), expected)


@each_option
@each_format
@pytest.mark.parametrize("cooperative", [False, True], ids=["several", "cooperative"])
def test_any_order_of_warps_gives_the_same_loss(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], channels_last: bool, cooperative: bool
) -> None:
    with cuda_on_host.kernels(monkeypatch, cooperative=cooperative) as library:
        expected = loss(torch.bfloat16, channels_last, options)
        for seed in (1, 2, 3):
            cuda_on_host.set_seed(library, seed)
            assert_same_bits(loss(torch.bfloat16, channels_last, options), expected)


def head(channels_last: bool, options: dict[str, Any]) -> tuple[DynamicLossOutput, BatchNormGrads]:
    z = response_map(SHAPE, torch.bfloat16, channels_last)
    weight, bias = torch.linspace(-2, 2, SHAPE[1]), torch.linspace(-1, 1, SHAPE[1])
    return batch_norm_dynamic_loss_and_grad(z, weight, bias, **options)


@pytest.mark.parametrize("options", [OPTIONS["superpixels"], OPTIONS["all"]], ids=["superpixels", "all"])
@each_format
def test_any_order_of_warps_gives_the_same_head_and_batch_norm(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], channels_last: bool
) -> None:
    x = response_map(SHAPE, torch.bfloat16, channels_last).requires_grad_()
    ones = torch.ones(SHAPE[1])
    with cuda_on_host.kernels(monkeypatch) as library:
        results = []
        for seed in range(4):
            cuda_on_host.set_seed(library, seed)
            output, grads = head(channels_last, options)
            y = relu_batch_norm(x, ones, ones)
            (grad_x,) = torch.autograd.grad(y, x, y.detach())
            results.append([*output, *grads, y.detach(), grad_x])
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            assert torch.equal(actual, expected)
