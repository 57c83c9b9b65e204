"""What is installed, compiled and active, and why."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from dynamicseg import _native
from dynamicseg.gpu_training import why_no_graph
from dynamicseg.inference.available import runtimes
from dynamicseg.ops import _cuda, _runtime
from dynamicseg.segmentation import package_version

_LIBRARIES = ("torch", "numpy", "scikit-image", "pillow", "tifffile", "imagecodecs")


def collect() -> dict[str, Any]:
    """Facts by name, ready for JSON."""
    _runtime.lend_threads()
    build = _native.build_info()
    cuda_error = _cuda.load_error()
    no_graph = why_no_graph(torch.device("cuda"))
    threads = "PyTorch's own OpenMP threads" if _native.uses_openmp() else "threads started for each call"
    return {
        "dynamicseg": package_version(),
        "python": f"{platform.python_version()} ({platform.platform()})",
        "libraries": [f"{name} {_version(name)}" for name in _LIBRARIES],
        "compiled_by": f"{build['compiler']} ({build['build_type']})",
        "instruction_set": _native.instruction_set(),
        "available_instruction_sets": _native.available_instruction_sets(),
        "threads": f"{_native.thread_count()}, {threads}",
        "cpu_backend": _runtime.why(torch.device("cpu")),
        "cuda_kernels": f"no: {cuda_error}" if cuda_error else f"yes: {build['cuda_reason']}",
        "cuda_backend": _runtime.why(torch.device("cuda")),
        "cuda_training": f"step by step: {no_graph}" if no_graph else "all steps replayed as one CUDA graph",
        "devices": ["cpu", *_cuda_devices()],
        **runtimes(),
    }


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _cuda_devices() -> list[str]:
    if not torch.cuda.is_available():
        return ["no CUDA GPU that PyTorch can use"]
    return [f"cuda:{index} {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
