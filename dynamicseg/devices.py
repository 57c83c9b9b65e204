"""Which device and which precision a configuration means on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from dynamicseg._words import counted
from dynamicseg.config import Precision


def present_device(name: str) -> torch.device:
    """The device of that name, if the machine has it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name}: PyTorch {torch.__version__} finds no CUDA GPU here; use cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name}: this machine has {counted(torch.cuda.device_count(), 'GPU')}, numbered from 0"
        )
    return device


def present_precision(precision: Precision, device: torch.device) -> Precision:
    """``"auto"`` is bfloat16 where the processor or GPU multiplies it faster than float32."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    try:
        return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
    except (AttributeError, RuntimeError):  # a PyTorch that was built without oneDNN
        return "float32"


@contextlib.contextmanager
def repeatable_convolutions(*, float32: bool) -> Iterator[None]:
    """On GPUs: convolutions that give the same bits each time; with ``float32``, none in numbers of fewer bits."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    # PyTorch 2.9 has new names for this, and refuses whoever uses old and new ones side by side.
    owner, name = (cudnn.conv, "fp32_precision") if hasattr(cudnn, "conv") else (cudnn, "allow_tf32")
    precision_before = getattr(owner, name)
    cudnn.deterministic, cudnn.benchmark = True, False
    if float32:
        setattr(owner, name, "ieee" if name == "fp32_precision" else False)
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        setattr(owner, name, precision_before)
