"""The CUDA kernels: whether they can be used on a device and why not, and how one is started there.

The compiled module is loaded when a tensor on a GPU, or ``dynamicseg info``, first asks.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar

import torch

from dynamicseg import _native

Params = _native.DynamicLossParams | _native.BatchNormDynamicLossParams | _native.ReluBatchNormParams


# Whether an op that has both forms runs as one cooperative kernel or as several: see csrc/cuda/dynamic_loss.cu.
COOPERATIVE_BY_DEFAULT = False
_cooperative = ContextVar("cooperative", default=COOPERATIVE_BY_DEFAULT)


@contextlib.contextmanager
def cooperative_launches(wanted: bool) -> Iterator[None]:
    """Inside the block, ops of this thread that have a cooperative form use it, or do not."""
    before = _cooperative.set(wanted)
    try:
        yield
    finally:
        _cooperative.reset(before)


@functools.cache
def load_error() -> str:
    """Why the compiled module cannot be loaded; empty where it can."""
    build = _native.build_info()
    if not build["cuda"]:
        return build["cuda_reason"]
    try:
        from dynamicseg import _native_cuda  # noqa: F401
    except ImportError as error:
        return f"the CUDA module cannot be loaded ({error})"
    return ""


def problem(index: int | None) -> str:
    """Why there are no kernels for the GPU ``index``, None is the current one; empty where there are."""
    if error := load_error():
        return error
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA GPU"
    return _problem_of_device(torch.cuda.current_device() if index is None else index)


# torch.compile asks while it traces, and takes the answer for a constant. This is all that the decorator
# torch.compiler.assume_constant_result does, but for importing the compiler, a second that every start would wait for.
problem._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _problem_of_device(index: int) -> str:
    from dynamicseg import _native_cuda

    with torch.cuda.device(index):
        found = _native_cuda.problem_of_current_device()
    if not found:
        return ""
    architectures = _native_cuda.build_info()["architectures"]
    return f"the kernels, compiled for {architectures}, cannot run on {torch.cuda.get_device_name(index)}: {found}"


def run(kernel: str, params: Params, device: torch.device) -> None:
    """Starts a kernel on the stream that is current on ``device``, and waits for nothing."""
    from dynamicseg import _native_cuda

    with torch.cuda.device(device):
        workspace_bytes = getattr(_native_cuda, f"{kernel}_workspace_bytes")(params)
        # What is given back before the kernel has run goes to kernels on the same stream alone, which come later.
        workspace = torch.empty(workspace_bytes, dtype=torch.uint8, device=device)
        launch = _native_cuda.CudaLaunch(
            stream=torch.cuda.current_stream().cuda_stream,
            workspace=workspace.data_ptr(),
            cooperative=_cooperative.get(),
        )
        getattr(_native_cuda, kernel)(params, launch)
