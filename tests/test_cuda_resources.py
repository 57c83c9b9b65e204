"""No CUDA kernel keeps in memory what belongs in registers, nor takes more of them than it may."""

from __future__ import annotations

import os

import cuda_resources
import pytest
from cuda_resources import Kernel

# The first test to come compiles all kernels.
pytestmark = pytest.mark.timeout(900)

REQUIRED_VARIABLE = "DYNAMICSEG_NVCC_REQUIRED"
"""Set where a missing nvcc is a failure."""


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    if cuda_resources.compiler() is None:
        reason = "there is no nvcc to compile the CUDA kernels with"
        if os.environ.get(REQUIRED_VARIABLE):
            pytest.fail(reason)
        pytest.skip(reason)
    return cuda_resources.all_kernels()


def test_every_source_and_type_is_there(kernels: list[Kernel]) -> None:
    sources = {kernel.source for kernel in kernels}
    assert {"dynamic_loss.cu", "relu_batch_norm.cu", "batch_norm_dynamic_loss.cu"} <= sources
    for storage in ("float", "double", "BFloat16", "Float16"):
        assert any(f"<{storage}," in kernel.name for kernel in kernels), storage


def test_nothing_spills(kernels: list[Kernel]) -> None:
    spilling = [kernel for kernel in kernels if kernel.spill_stores or kernel.spill_loads]
    assert not spilling, "\n".join(map(str, spilling))


def test_no_arrays_are_in_local_memory(kernels: list[Kernel]) -> None:
    on_the_stack = [kernel for kernel in kernels if kernel.stack]
    assert not on_the_stack, "\n".join(map(str, on_the_stack))


def test_registers_are_within_launch_bounds(kernels: list[Kernel]) -> None:
    too_many = [kernel for kernel in kernels if kernel.registers > kernel.registers_allowed]
    assert not too_many, "\n".join(map(str, too_many))
    bounded = [kernel for kernel in kernels if kernel.registers_allowed < 255]
    assert bounded, "no kernel has launch bounds: they were not found"
