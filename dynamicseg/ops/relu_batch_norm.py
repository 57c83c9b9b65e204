"""``dynamicseg::relu_batch_norm``: ReLU and batch norm in one, with the statistics of the batch at hand.

Nothing but the map itself, its means and its deviations is kept for the backward pass: what the ReLU gives is computed
again where it is needed, and written nowhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynamicseg import _native, reference
from dynamicseg.ops import _runtime
from dynamicseg.ops._library import operator
from dynamicseg.ops._maps import (
    DTYPES,
    check_map,
    dense_format,
    empty_result,
    result_memory,
    statistic_dtype,
    torch_format,
)
from dynamicseg.reference import DEFAULT_EPS


def relu_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = True, eps: float = DEFAULT_EPS) -> Tensor:
    """``batch_norm(relu(x))`` in training mode, fused, without running statistics; as ``reference.relu_batch_norm``.

    ``y = weight * (r - mean(r)) / sqrt(variance(r) + eps) + bias`` with ``r = relu(x)``, mean and biased variance over
    the pixels of all images, channel by channel. Differentiable in ``x``, ``weight`` and ``bias``. Maps whose rows or
    whose channels are dense are read where they are, crops included. The same input gives the same bits.

    Args:
        x: ``[B, C, H, W]`` map: float32, float64, bfloat16 or, on a GPU, float16; contiguous or channels last;
            B * H * W >= 2.
        weight: ``[C]``, float64 for a float64 map, else float32.
        bias: ``[C]``, in the dtype of ``weight``.
        relu: whether negative values are set to 0 first.
        eps: added to the variance, > 0.

    Returns:
        ``[B, C, H, W]``, in dtype and memory format of ``x``.

    Raises:
        TypeError: an argument is not a tensor of the right dtype.
        ValueError: a shape, a device or eps is wrong.
    """
    check_map("x", x)
    check_affine("x", x, weight, bias, eps)
    if _runtime.backend_for(x.device) == "reference":
        return reference.relu_batch_norm(x, weight, bias, relu=relu, eps=eps)
    y: Tensor = _relu_batch_norm(x, weight, bias, relu, eps)[0]
    return y


def check_affine(name: str, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> None:
    """What batch norm wants beside the map ``x``, which goes by ``name``."""
    batch, channels, height, width = x.shape
    if batch * height * width < 2:
        raise ValueError(f"{name} has shape {list(x.shape)}: batch norm wants at least 2 values in a channel")
    if not eps > 0:
        raise ValueError(f"eps is {eps}: pass a number > 0")
    for parameter_name, parameter in (("weight", weight), ("bias", bias)):
        wanted = statistic_dtype(x)
        if not isinstance(parameter, Tensor) or parameter.dtype != wanted:
            kind = parameter.dtype if isinstance(parameter, Tensor) else type(parameter).__name__
            raise TypeError(f"{parameter_name} is {kind}: pass a {wanted} tensor [C], for {name} is {x.dtype}")
        if parameter.shape != (channels,):
            raise ValueError(
                f"{parameter_name} has shape {list(parameter.shape)}, {name} {list(x.shape)}: pass [{channels}]"
            )
        if parameter.device != x.device:
            raise ValueError(f"{parameter_name} is on {parameter.device}, {name} on {x.device}: move one to the other")


# ---- adapter: tensor -> pointers -------------------------------------------------------------------------------------


def _run(
    kernel: str,
    x: Tensor,
    relu: bool,
    eps: float,
    maps: dict[str, Tensor],
    **arrays: Tensor,
) -> None:
    """Runs a kernel on the tensors' memory; the names of maps and arrays are those of the kernel interface.

    All maps are in the memory format of ``x``, which has one.
    """
    arrays = {name: array.contiguous() for name, array in arrays.items()}
    addresses = dict.fromkeys(("weight", "bias", "mean", "rstd", "grad_weight", "grad_bias"), 0) | {
        name: array.data_ptr() for name, array in arrays.items()
    }
    none = (0, 0, 0, 0)
    memory_format = dense_format(x)
    assert memory_format is not None
    params = _native.ReluBatchNormParams(
        x=x.data_ptr(),
        dtype=DTYPES[x.dtype],
        format=memory_format,
        shape=tuple(x.shape),
        strides=x.stride(),
        relu=relu,
        eps=eps,
        y=maps["y"].data_ptr() if "y" in maps else 0,
        y_strides=maps["y"].stride() if "y" in maps else none,
        grad_y=maps["grad_y"].data_ptr() if "grad_y" in maps else 0,
        grad_y_strides=maps["grad_y"].stride() if "grad_y" in maps else none,
        grad_x=maps["grad_x"].data_ptr() if "grad_x" in maps else 0,
        grad_x_strides=maps["grad_x"].stride() if "grad_x" in maps else none,
        **addresses,
    )
    _runtime.run_kernel(kernel, params, x.device)


def _readable(x: Tensor) -> Tensor:
    """``x`` itself where there are kernels that read it where it lies, else a copy."""
    return x.contiguous() if dense_format(x) is None else x


def _in_format_of(x: Tensor, other: Tensor) -> Tensor:
    """``other``, a map of the shape of ``x``, in its memory format."""
    if x.shape[1] > 1 and dense_format(x) == dense_format(other):
        return other
    return other.contiguous(memory_format=torch_format(dense_format(x)))


# ---- torch.library ---------------------------------------------------------------------------------------------------


def _fake_relu_batch_norm(x: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty_result(x), torch.empty_like(weight), torch.empty_like(weight)


def _fake_relu_batch_norm_backward(_: Tensor, x: Tensor, weight: Tensor, *__: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty_result(x), torch.empty_like(weight), torch.empty_like(weight)


@operator(
    "relu_batch_norm_backward",
    "(Tensor grad_y, Tensor x, Tensor weight, Tensor mean, Tensor rstd, bool relu) -> (Tensor, Tensor, Tensor)",
    fake=_fake_relu_batch_norm_backward,
)
def _relu_batch_norm_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x = _readable(x)
    grad_x, grad_weight, grad_bias = result_memory(x), torch.empty_like(weight), torch.empty_like(weight)
    _run(
        "relu_batch_norm_backward",
        x,
        relu,
        0.0,  # eps is in rstd
        {"grad_y": _in_format_of(x, grad_y), "grad_x": grad_x},
        weight=weight,
        mean=mean,
        rstd=rstd,
        grad_weight=grad_weight,
        grad_bias=grad_bias,
    )
    return grad_x, grad_weight, grad_bias


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, _, ctx.relu, _ = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, weight, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_y: Tensor | None, *_: None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
    if grad_y is None:
        return None, None, None, None, None
    return *_relu_batch_norm_backward(grad_y, *ctx.saved_tensors, ctx.relu), None, None


@operator(
    "relu_batch_norm",
    "(Tensor x, Tensor weight, Tensor bias, bool relu, float eps) -> (Tensor, Tensor, Tensor)",
    fake=_fake_relu_batch_norm,
    backward=_backward,
    setup_context=_setup_context,
)
def _relu_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, relu: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    x = _readable(x)
    y, mean, rstd = result_memory(x), torch.empty_like(weight), torch.empty_like(weight)
    _run("relu_batch_norm", x, relu, eps, {"y": y}, weight=weight, bias=bias, mean=mean, rstd=rstd)
    return y, mean, rstd
