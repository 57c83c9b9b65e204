"""Loads what ``tests/cuda_on_host/build.sh`` has built, and chooses the device that it stands in for."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.machinery
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dynamicseg.ops import _runtime

FOLDER_VARIABLE = "DYNAMICSEG_CUDA_ON_HOST"
"""The folder of the libraries; by default build/cuda/cuda_on_host in the repository."""
FOLDER = Path(os.environ.get(FOLDER_VARIABLE) or Path(__file__).parent.parent / "build" / "cuda" / "cuda_on_host")


def path(name: str) -> Path:
    """Of a library; skips the test where it was not built, and fails it where it must have been."""
    found = FOLDER / f"{name}.so"
    if not found.is_file():
        reason = f"there is no {found}: run tests/cuda_on_host/build.sh build/cuda"
        if os.environ.get(FOLDER_VARIABLE):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@functools.cache
def load(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(path(name)))


def set_device(
    library: ctypes.CDLL,
    multiprocessors: int = 2,
    l2_bytes: int = 64 << 10,
    blocks_per_multiprocessor: int = 2,
    cooperative_launch: bool = True,
) -> None:
    library.cuda_on_host_set_device(multiprocessors, l2_bytes, blocks_per_multiprocessor, cooperative_launch)


def set_seed(library: ctypes.CDLL, seed: int) -> None:
    """The order in which warps and lanes run; 0: by number."""
    library.cuda_on_host_set_seed(ctypes.c_uint64(seed))


def reset(library: ctypes.CDLL) -> None:
    set_device(library)
    set_seed(library, 0)


@functools.cache
def module() -> ModuleType:
    """``_native_cuda_on_host``: what ``_native_cuda`` is, on the CPU."""
    name = "_native_cuda_on_host"
    loader = importlib.machinery.ExtensionFileLoader(name, str(path(name)))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    loaded = importlib.util.module_from_spec(spec)
    loader.exec_module(loaded)
    return loaded


@contextlib.contextmanager
def kernels(monkeypatch: pytest.MonkeyPatch, *, cooperative: bool = False) -> Iterator[ctypes.CDLL]:
    """Meanwhile the ops run the CUDA kernels on tensors that are on the CPU; gives the library, to set its device.

    ``cooperative``: see ``CudaLaunch`` in types.h.
    """
    compiled = module()

    def run(kernel: str, params: Any, device: torch.device) -> None:
        # NaN, or -1, to begin with: nobody may count on what is in it.
        workspace = torch.full((getattr(compiled, f"{kernel}_workspace_bytes")(params) + 256,), 255, dtype=torch.uint8)
        aligned = -(-workspace.data_ptr() // 256) * 256
        getattr(compiled, kernel)(params, compiled.CudaLaunch(stream=0, workspace=aligned, cooperative=cooperative))

    library = load("_native_cuda_on_host")
    with monkeypatch.context() as patched:
        patched.setattr(_runtime, "backend_for", lambda device: "cuda")
        patched.setattr(_runtime, "run_kernel", run)
        yield library
    reset(library)
