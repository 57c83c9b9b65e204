"""``csrc/core/arithmetic.h`` on the host: float16 and bfloat16 are those of PyTorch, to the bit."""

from __future__ import annotations

import ctypes

import cuda_on_host
import pytest
import torch
from torch import Tensor

TYPES = [torch.float16, torch.bfloat16]
each_type = pytest.mark.parametrize("dtype", TYPES, ids=["float16", "bfloat16"])


def convert(function: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    """By a function of the library."""
    converted = torch.empty(values.shape, dtype=dtype)
    run = getattr(cuda_on_host.load("kernels"), function)
    run(ctypes.c_void_p(values.data_ptr()), values.numel(), ctypes.c_void_p(converted.data_ptr()))
    return converted


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def all_of(dtype: torch.dtype) -> Tensor:
    """All 65536 elements: zeros, subnormal numbers, infinities and NaN of both signs among them."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    """Also of zeros; of a NaN only that it is one."""
    bits = {2: torch.int16, 4: torch.int32}[found.dtype.itemsize]
    different = (found.view(bits) != expected.view(bits)) & ~(found.isnan() & expected.isnan())
    assert not different.any(), f"{found[different][:5].tolist()}, expected {expected[different][:5].tolist()}"


@each_type
def test_all_elements_as_numbers(dtype: torch.dtype) -> None:
    elements = all_of(dtype)
    found = convert(f"numbers_of_{name_of(dtype)}", elements, torch.float32)
    assert_same_bits(found, elements.float())


@each_type
def test_all_elements_come_back(dtype: torch.dtype) -> None:
    elements = all_of(dtype)
    assert_same_bits(convert(f"{name_of(dtype)}_of_numbers", elements.float(), dtype), elements)


@each_type
def test_ties_and_their_neighbours_are_rounded_as_pytorch_rounds(dtype: torch.dtype) -> None:
    finite = all_of(dtype)[all_of(dtype).isfinite()].float().sort().values
    ties = ((finite[1:].double() + finite[:-1].double()) / 2).float()
    assert ties.double().sub(finite[:-1]).eq(finite[1:].double().sub(ties)).all()
    beyond = ties[-1] + (finite[-1] - finite[-2])  # half a step above the greatest number: infinity
    ties = torch.cat([ties, beyond.view(1), -beyond.view(1)])
    infinity = torch.tensor(torch.inf)
    for numbers in (ties, ties.nextafter(infinity), ties.nextafter(-infinity)):
        assert_same_bits(convert(f"{name_of(dtype)}_of_numbers", numbers, dtype), numbers.to(dtype))


@each_type
def test_any_number_is_rounded_as_pytorch_rounds(dtype: torch.dtype) -> None:
    any_bits = torch.randint(-(2**31), 2**31, (1 << 20,)).to(torch.int32).view(torch.float32)
    of_usual_size = torch.randn(1 << 20) * 2.0 ** torch.randint(-30, 20, (1 << 20,))
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65504.0, 65520.0, 3.4e38, 1e-45])
    for numbers in (any_bits, of_usual_size, special):
        assert_same_bits(convert(f"{name_of(dtype)}_of_numbers", numbers, dtype), numbers.to(dtype))
