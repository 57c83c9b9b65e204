"""Loads what ``tests/cuda_on_host/build.sh`` has built, and chooses the device that it stands in for."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import pytest

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
