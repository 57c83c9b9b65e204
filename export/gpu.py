"""The NVIDIA GPU of this machine, if there is one: an engine is built on it, or for it."""

from __future__ import annotations

from dynamicseg.inference.cuda_driver import GpuFacts as Gpu
from dynamicseg.inference.cuda_driver import gpu_facts

__all__ = ["Gpu", "this_gpu"]


def this_gpu() -> Gpu | None:
    """The GPU that CUDA uses by default, None where there is none or no driver."""
    try:
        return gpu_facts()
    except ValueError:
        return None
