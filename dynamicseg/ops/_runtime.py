"""Where an op runs: the one place that decides between the native kernels and the reference, and lends threads."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from dynamicseg import _native
from dynamicseg.ops import _cuda

BACKEND_VARIABLE = "DYNAMICSEG_BACKEND"
INSTRUCTION_SET_VARIABLE = "DYNAMICSEG_INSTRUCTION_SET"

Backend = Literal["cpu", "cuda", "reference"]

_WANTED = os.environ.get(BACKEND_VARIABLE, "auto")
if _WANTED not in ("auto", "reference"):
    raise ValueError(f"{BACKEND_VARIABLE}={_WANTED}: choose auto or reference")


def backend_for(device: torch.device) -> Backend:
    """Native kernels on the CPU and on GPUs that they can run on, plain PyTorch elsewhere.

    ``DYNAMICSEG_BACKEND=reference`` chooses plain PyTorch everywhere.
    """
    if _WANTED == "reference":
        return "reference"
    if device.type == "cpu":
        return "cpu"
    return "cuda" if device.type == "cuda" and not _cuda.problem(device.index) else "reference"


def why(device: torch.device) -> str:
    """The reason for the backend of ``device``, in words."""
    backend = backend_for(device)
    if backend == "cpu":
        return f"native kernels, {_native.instruction_set()}"
    if backend == "cuda":
        return "native kernels, CUDA"
    if _WANTED == "reference":
        return f"plain PyTorch, because {BACKEND_VARIABLE}=reference"
    return f"plain PyTorch, because {_cuda.problem(device.index)}"


def run_kernel(kernel: str, params: _cuda.Params, device: torch.device) -> None:
    """Runs the native function ``kernel`` on memory of ``device``; on a GPU it has only been started when this ends."""
    if device.type == "cuda":
        _cuda.run(kernel, params, device)
    else:
        lend_threads()
        getattr(_native, kernel)(params)


@functools.cache
def openmp_parallel() -> int:
    """Address of ``GOMP_parallel`` in the OpenMP runtime that PyTorch uses, 0 if it has none.

    A symbol looked up in a library is looked up in what that library was linked with, so this is the very runtime that
    PyTorch's own kernels run on, whatever its file is called.
    """
    suffix = {"darwin": "dylib"}.get(os.uname().sysname.lower(), "so")
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}"))
        return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0


def lend_threads() -> None:
    """Lets the native core use as many threads as PyTorch does; to be called before a kernel."""
    threads = torch.get_num_threads()
    if _native.thread_count() != threads or not _native.uses_openmp():
        _native.set_threads(threads, openmp_parallel())


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """For a training loop on the CPU: freed memory is kept for the next step, and given back at the end.

    Without it, mapping the same large arrays anew takes half of the time of a step.
    """
    _native.begin_keeping_freed_memory()
    try:
        yield
    finally:
        _native.end_keeping_freed_memory()


if INSTRUCTION_SET_VARIABLE in os.environ:
    try:
        _native.set_instruction_set(os.environ[INSTRUCTION_SET_VARIABLE])
    except ValueError as error:
        raise ValueError(f"{INSTRUCTION_SET_VARIABLE}: {error}") from None
