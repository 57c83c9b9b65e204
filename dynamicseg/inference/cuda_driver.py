"""A GPU by way of NVIDIA's driver alone: its name, its memory, copies. TensorRT needs no more, and it is always there.

https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamicseg._words import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_NAME_BYTES = 256


@dataclass(frozen=True)
class GpuFacts:
    """A GPU, in words.

    Attributes:
        name: as the driver calls it.
        compute_capability: as ``"8.6"``.
        driver: the version of CUDA that its driver knows, as ``"13.0"``.
    """

    name: str
    compute_capability: str
    driver: str


class Gpu:
    """One GPU, its primary context, and a stream of our own.

    Attributes:
        name: as the driver calls it.
        compute_capability: as ``"8.6"``.
        stream: to be handed to TensorRT.

    Raises:
        ValueError: there is no driver, or no such GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self._driver, device = _device(index)
        facts = _facts(self._driver, device)
        self.name, self.compute_capability = facts.name, facts.compute_capability
        context, stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context, self._stream = context, stream
        # Also if something fails from here on. What uses the GPU keeps this object for as long as it does.
        weakref.finalize(self, _give_back, self._driver, device, context, stream)
        self.use()
        self._do("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        self.stream = int(stream.value or 0)

    def use(self) -> None:
        """Makes this GPU the one that the calling thread works on."""
        self._do("cuCtxSetCurrent", self._context)

    def free_memory(self) -> int:
        """Bytes that nobody has, on this GPU."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        with self._used_here():
            self._do("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, nbytes: int) -> int:
        """The address of so many bytes; MemoryError if there are not so many."""
        address = ctypes.c_uint64()
        try:
            self._do("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(nbytes))
        except ValueError as error:
            raise MemoryError(f"{self.name} has no {nbytes} bytes left ({error})") from None
        return address.value

    def free(self, address: int) -> None:
        """Gives back what ``allocate`` gave, from any thread."""
        with self._used_here():
            self._do("cuMemFree_v2", ctypes.c_uint64(address))

    def copy_in(self, address: int, array: NDArray[Any]) -> None:
        """From a contiguous array, in the order of the stream."""
        source = array.ctypes.data_as(ctypes.c_void_p)
        self._do("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(array.nbytes), self._stream)

    def copy_out(self, array: NDArray[Any], address: int) -> None:
        """Into a contiguous array; it is filled once ``wait`` returns."""
        target = array.ctypes.data_as(ctypes.c_void_p)
        self._do("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes), self._stream)

    def wait(self) -> None:
        """Until all that was handed to the stream is done."""
        self._do("cuStreamSynchronize", self._stream)

    @contextmanager
    def _used_here(self) -> Iterator[None]:
        """As ``use``, and then as it was: other libraries may be at work on another GPU in this thread."""
        self._do("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._do("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def _do(self, function: str, *arguments: Any) -> None:
        _call(self._driver, function, *arguments)


def gpu_facts(index: int = 0) -> GpuFacts:
    """What a GPU is; nothing of it is used.

    Raises:
        ValueError: there is no driver, or no such GPU.
    """
    return _facts(*_device(index))


def _device(index: int) -> tuple[Any, ctypes.c_int]:
    """The driver, and the number that it has for a GPU."""
    driver = _driver()
    _call(driver, "cuInit", ctypes.c_uint(0))
    count, device = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if index >= count.value:
        raise ValueError(f"device cuda:{index}: this machine has {counted(count.value, 'GPU')}, numbered from 0")
    _call(driver, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
    return driver, device


def _facts(driver: Any, device: ctypes.c_int) -> GpuFacts:
    text = ctypes.create_string_buffer(_NAME_BYTES)
    major, minor, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuDeviceGetName", text, ctypes.c_int(_NAME_BYTES), device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(major), ctypes.c_int(_MAJOR), device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(minor), ctypes.c_int(_MINOR), device)
    _call(driver, "cuDriverGetVersion", ctypes.byref(version))
    return GpuFacts(
        text.value.decode(errors="replace"),
        f"{major.value}.{minor.value}",
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def _call(driver: Any, function: str, *arguments: Any) -> None:
    status = getattr(driver, function)(*arguments)
    if status != 0:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
        reason = (text.value or b"unknown").decode(errors="replace")
        raise ValueError(f"the CUDA driver refuses {function}: {reason} ({status})")


def _give_back(driver: Any, device: ctypes.c_int, context: ctypes.c_void_p, stream: ctypes.c_void_p) -> None:
    # What these say is of no use any more: after an error on the GPU, all of them fail.
    if stream.value:
        driver.cuCtxPushCurrent_v2(context)
        driver.cuStreamDestroy_v2(stream)
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    driver.cuDevicePrimaryCtxRelease_v2(device)


def _driver() -> Any:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise ValueError(f"engines run on an NVIDIA GPU, and there is no driver for one here ({_LIBRARIES[0]} is missing)")
