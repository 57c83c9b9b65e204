"""The NVIDIA GPU of this machine, if there is one, asked of its driver: neither PyTorch nor a toolkit is needed."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


@dataclass(frozen=True)
class Gpu:
    """The first GPU.

    Attributes:
        name: as its maker calls it.
        compute_capability: as ``"8.6"``.
        driver: the version of CUDA that its driver knows, as ``"13.0"``.
    """

    name: str
    compute_capability: str
    driver: str


def this_gpu() -> Gpu | None:
    """The GPU that CUDA uses by default, None where there is none or no driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor, driver = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
        or cuda.cuDriverGetVersion(ctypes.byref(driver))
    )
    if failed:
        return None
    version = f"{driver.value // 1000}.{driver.value % 1000 // 10}"
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", version)
