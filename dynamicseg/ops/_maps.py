"""Maps ``[B, C, H, W]`` as the native kernels know them: dtypes, memory formats, memory for results."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dynamicseg import _native
from dynamicseg.ops import _runtime

MemoryFormat = Literal["contiguous", "channels_last"]

DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",  # on GPUs alone
}

_LARGE_RESULT = 4 << 20  # bytes; smaller memory is reused by the allocator of the C library itself


def check_map(name: str, value: object) -> None:
    """Raises TypeError or ValueError, one line, unless ``value`` is a map that the ops take."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}: pass a torch.Tensor [B, C, H, W]")
    if value.dim() != 4 or value.shape[1] < 1:
        raise ValueError(f"{name} has shape {list(value.shape)}: pass [B, C, H, W] with C >= 1")
    if value.dtype not in DTYPES:
        raise TypeError(f"{name} is {value.dtype}: pass float32, float64, bfloat16 or, on a GPU, float16")
    if value.dtype == torch.float16 and value.device.type == "cpu" and _runtime.backend_for(value.device) != "cuda":
        raise TypeError(f"{name} is torch.float16 on the CPU: pass float32, float64 or bfloat16 there")


def dense_format(x: Tensor) -> MemoryFormat | None:
    """Which kernels can read ``x`` where it lies: those for dense rows, those for dense channels, or none."""
    if x.stride(1) == 1 and x.shape[1] > 1:
        return "channels_last"
    if x.stride(3) == 1 or x.shape[3] <= 1:
        return "contiguous"
    return "channels_last" if x.shape[1] == 1 else None


def torch_format(memory_format: MemoryFormat | None) -> torch.memory_format:
    """PyTorch's name of a memory format; contiguous where there is none."""
    return torch.channels_last if memory_format == "channels_last" else torch.contiguous_format


def empty_result(x: Tensor, device: str | None = None) -> Tensor:
    """For a result of the size of ``x``: dense, in its memory format."""
    return torch.empty_like(x, memory_format=torch_format(dense_format(x)), device=device)


def result_memory(x: Tensor) -> Tensor:
    """``empty_result``; on the CPU in memory of the native core, which costs less where the result is large."""
    if x.device.type != "cpu" or x.nbytes < _LARGE_RESULT:
        return empty_result(x)
    like = empty_result(x, device="meta")
    memory = torch.frombuffer(_native.ResultMemory(like.nbytes), dtype=x.dtype)
    return memory.as_strided(like.shape, like.stride())


def statistic_dtype(x: Tensor) -> torch.dtype:
    """Of the numbers that are not of the size of the map."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
