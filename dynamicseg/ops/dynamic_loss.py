"""``dynamicseg::dynamic_loss``: the loss of section "the mathematics" in the docs, fused.

Fake and autograd registrations are in Python, so that the native core needs no torch to build and serves every version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicseg import _native, reference
from dynamicseg.ops import _runtime
from dynamicseg.ops._maps import DTYPES, check_map, dense_format, empty_result, result_memory, statistic_dtype
from dynamicseg.reference import DynamicLossOutput
from dynamicseg.weighting import Weighting, checked_mu


def dynamic_loss(
    x: Tensor,
    *,
    weighting: Weighting = "fsf",
    mu: float | None = None,
    mask: Tensor | None = None,
    superpixels: Tensor | None = None,
    superpixel_count: int | None = None,
) -> DynamicLossOutput:
    """The dynamically weighted loss of each image of a batch; the same as ``reference.dynamic_loss``, fused.

    Nothing of the size of ``x`` is written, but the gradient when it is asked for. Maps whose rows or whose channels
    are dense are read where they are, crops included; any other is copied first. The same input gives the same bits.

    Args:
        x: ``[B, C, H, W]`` response map: float32, float64, bfloat16 or, on a GPU, float16; contiguous or channels last.
            C >= 1.
        weighting: ``"fsf"``, ``"scf"`` or ``"fixed"``, see ``weighting.Weighting``.
        mu: constant of the weighting, > 0; by default the published one: 15, 50, 1.
        mask: ``[B, H, W]`` bool, true where there is data; default: everywhere.
        superpixels: ``[B, H, W]`` int64, numbers of superpixels from 0, with few gaps: the label of each pixel is then
            the most frequent one in its superpixel in place of its own.
        superpixel_count: a number that is above those of all superpixels, 1 .. H * W. By default it is found, for
            which each call on a GPU must wait for the GPU; where it is given, numbers there are not checked, and one
            that is out of range counts as the nearest that is in it.

    Returns:
        ``DynamicLossOutput``: ``loss`` (the only one with a gradient), ``similarity``, ``continuity``, ``weight``,
        ``label_counts``, all ``[B]``, and ``labels`` ``[B, H, W]``.

    Raises:
        TypeError: ``x`` or ``mask`` is not a tensor of the right dtype.
        ValueError: the shape, weighting, mu, a superpixel's number or their count is wrong, or ``mask`` is on another
            device.
    """
    mu = check_loss("x", x, weighting, mu, mask, superpixels, superpixel_count)
    if _runtime.backend_for(x.device) == "reference":
        return reference.dynamic_loss(x, weighting=weighting, mu=mu, mask=mask, superpixels=superpixels)
    *statistics, _ = _dynamic_loss(x, mask, superpixels, superpixel_count, weighting, mu)
    return DynamicLossOutput(*statistics)


def dynamic_loss_and_grad(
    x: Tensor,
    *,
    weighting: Weighting = "fsf",
    mu: float | None = None,
    mask: Tensor | None = None,
    superpixels: Tensor | None = None,
    superpixel_count: int | None = None,
) -> tuple[DynamicLossOutput, Tensor]:
    """``dynamic_loss`` and the gradient of its mean over the batch, in one native call, outside autograd.

    For a training loop of one's own: ``output, grad_x = dynamic_loss_and_grad(x); x.backward(grad_x)``.
    Arguments and errors as in ``dynamic_loss``. The gradient is ``[B, C, H, W]``, in dtype and memory format of ``x``.
    """
    mu = check_loss("x", x, weighting, mu, mask, superpixels, superpixel_count)
    x = x.detach()
    if _runtime.backend_for(x.device) == "reference":
        with torch.enable_grad():
            leaf = x.requires_grad_()
            output = reference.dynamic_loss(leaf, weighting=weighting, mu=mu, mask=mask, superpixels=superpixels)
            (grad_x,) = torch.autograd.grad(output.loss.sum() / max(len(output.loss), 1), leaf)
        return output._replace(loss=output.loss.detach()), grad_x
    *statistics, grad_x = _dynamic_loss_and_grad(x, mask, superpixels, superpixel_count, weighting, mu)
    return DynamicLossOutput(*statistics), grad_x


def check_loss(
    name: str,
    x: Tensor,
    weighting: Weighting,
    mu: float | None,
    mask: Tensor | None,
    superpixels: Tensor | None,
    superpixel_count: int | None,
) -> float:
    """Every argument of a loss of the map ``x``, which goes by ``name``, against what kernels take; returns mu."""
    check_map(name, x)
    mu = checked_mu(weighting, mu)
    if mask is not None:
        _check_beside(name, x, "mask", mask, torch.bool, "true where there is data")
    if superpixels is not None:
        _check_beside(name, x, "superpixels", superpixels, torch.int64, "numbers of superpixels")
    if superpixel_count is not None:
        if superpixels is None:
            raise ValueError(f"superpixel_count is {superpixel_count}, but there are no superpixels: pass both or none")
        pixels = x.shape[2] * x.shape[3]
        if pixels > 0 and not 1 <= superpixel_count <= pixels:
            raise ValueError(f"superpixel_count is {superpixel_count}: pass 1 to {pixels}, the number of pixels")
    return mu


def _check_beside(map_name: str, x: Tensor, name: str, value: object, dtype: torch.dtype, meaning: str) -> None:
    """A map ``[B, H, W]`` that goes with ``x``, which goes by ``map_name``."""
    batch, _, height, width = x.shape
    if not isinstance(value, Tensor) or value.dtype != dtype:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} is {kind}: pass a {dtype} tensor [B, H, W], {meaning}")
    if value.shape != (batch, height, width):
        raise ValueError(f"{name} has shape {list(value.shape)}, {map_name} {list(x.shape)}: pass a {name} [B, H, W]")
    if value.device != x.device:
        raise ValueError(f"{name} is on {value.device}, {map_name} on {x.device}: move one to the other")


# ---- adapter: tensor -> pointers -------------------------------------------------------------------------------------


class _Outputs(NamedTuple):
    """What the forward pass writes: ``DynamicLossOutput``, and ``logsumexp`` ``[B, H, W]`` for the backward pass."""

    loss: Tensor
    similarity: Tensor
    continuity: Tensor
    weight: Tensor
    label_counts: Tensor
    labels: Tensor
    logsumexp: Tensor


def empty_outputs(x: Tensor) -> _Outputs:
    """For what the forward pass writes of a map ``x``."""
    batch, _, height, width = x.shape
    statistic = statistic_dtype(x)
    return _Outputs(
        loss=x.new_empty(batch, dtype=statistic),
        similarity=x.new_empty(batch, dtype=statistic),
        continuity=x.new_empty(batch, dtype=statistic),
        weight=x.new_empty(batch, dtype=statistic),
        label_counts=x.new_empty(batch, dtype=torch.int64),
        labels=x.new_empty((batch, height, width), dtype=torch.int64),
        logsumexp=x.new_empty((batch, height, width), dtype=statistic),
    )


def _numbered(superpixels: Tensor | None, superpixel_count: int | None) -> tuple[Tensor | None, int]:
    """Superpixels as the kernels read them, and how many there are."""
    if superpixels is None or superpixels.numel() == 0:
        return None, 0
    if superpixel_count is None or superpixels.device.type == "cpu":
        lowest, highest = _range(superpixels)
        most = superpixels[0].numel() if superpixel_count is None else superpixel_count
        if lowest < 0 or highest >= most:
            limit = "the number of pixels" if superpixel_count is None else f"superpixel_count, {superpixel_count}"
            raise ValueError(
                f"superpixels are numbered from {lowest} to {highest}: number them from 0 to less than {limit}, "
                "for example with skimage.segmentation.relabel_sequential"
            )
        superpixel_count = highest + 1
    return superpixels.to(torch.int32).contiguous(), superpixel_count


def _range(superpixels: Tensor) -> tuple[int, int]:
    """The lowest and the highest number."""
    if superpixels.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise ValueError("superpixel_count is not given: pass it, for it cannot be found in a CUDA graph")
    lowest, highest = superpixels.aminmax()
    return int(lowest), int(highest)


def run_loss(
    kernel: str,
    x: Tensor,
    mask: Tensor | None,
    superpixels: Tensor | None,
    superpixel_count: int | None,
    weighting: str,
    mu: float,
    arrays: dict[str, Tensor],
    with_norm: Callable[[_native.DynamicLossParams], _native.BatchNormDynamicLossParams] | None = None,
) -> None:
    """Runs a kernel on the tensors' memory; the names of ``arrays`` are those of the kernel interface.

    ``with_norm`` adds the parameters of a batch norm to those of the loss, for a kernel that wants them.
    """
    memory_format = dense_format(x)
    if memory_format is None:
        x, memory_format = x.contiguous(), "contiguous"
    mask = None if mask is None else mask.contiguous()
    superpixels, superpixel_count = _numbered(superpixels, superpixel_count)
    addresses = dict.fromkeys((*_Outputs._fields, "grad_x", "grad_loss"), 0) | {
        name: array.data_ptr() for name, array in arrays.items()
    }
    params = _native.DynamicLossParams(
        x=x.data_ptr(),
        dtype=DTYPES[x.dtype],
        format=memory_format,
        shape=tuple(x.shape),
        strides=x.stride(),
        mask=0 if mask is None else mask.data_ptr(),
        superpixels=0 if superpixels is None else superpixels.data_ptr(),
        superpixel_count=superpixel_count,
        weighting=weighting,
        mu=mu,
        grad_strides=arrays["grad_x"].stride() if "grad_x" in arrays else (0, 0, 0, 0),
        **addresses,
    )
    _runtime.run_kernel(kernel, params if with_norm is None else with_norm(params), x.device)


# ---- torch.library ---------------------------------------------------------------------------------------------------

_Forward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
_ForwardAndGrad = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("dynamicseg::dynamic_loss", mutates_args=(), device_types=("cpu", "cuda"))
def _dynamic_loss(
    x: Tensor,
    mask: Tensor | None,
    superpixels: Tensor | None,
    superpixel_count: int | None,
    weighting: str,
    mu: float,
) -> _Forward:
    outputs = empty_outputs(x)
    run_loss("dynamic_loss", x, mask, superpixels, superpixel_count, weighting, mu, outputs._asdict())
    return (*outputs,)


@_dynamic_loss.register_fake
def _(
    x: Tensor,
    mask: Tensor | None,
    superpixels: Tensor | None,
    superpixel_count: int | None,
    weighting: str,
    mu: float,
) -> _Forward:
    return (*empty_outputs(x),)


@torch.library.custom_op("dynamicseg::dynamic_loss_and_grad", mutates_args=(), device_types=("cpu", "cuda"))
def _dynamic_loss_and_grad(
    x: Tensor,
    mask: Tensor | None,
    superpixels: Tensor | None,
    superpixel_count: int | None,
    weighting: str,
    mu: float,
) -> _ForwardAndGrad:
    outputs = empty_outputs(x)
    grad_x = result_memory(x)
    grad_loss = torch.full_like(outputs.loss, 1 / max(len(x), 1))
    run_loss(
        "dynamic_loss",
        x,
        mask,
        superpixels,
        superpixel_count,
        weighting,
        mu,
        outputs._asdict() | {"grad_x": grad_x, "grad_loss": grad_loss},
    )
    return (*outputs[:-1], grad_x)  # no logsumexp: some kernels need none here, and leave it unwritten


@_dynamic_loss_and_grad.register_fake
def _(
    x: Tensor,
    mask: Tensor | None,
    superpixels: Tensor | None,
    superpixel_count: int | None,
    weighting: str,
    mu: float,
) -> _ForwardAndGrad:
    return (*empty_outputs(x)[:-1], empty_result(x))


@torch.library.custom_op("dynamicseg::dynamic_loss_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _dynamic_loss_backward(
    grad_loss: Tensor, x: Tensor, mask: Tensor | None, labels: Tensor, logsumexp: Tensor, weight: Tensor
) -> Tensor:
    grad_x = result_memory(x)
    arrays = {"labels": labels, "logsumexp": logsumexp, "weight": weight}
    arrays |= {"grad_loss": grad_loss.contiguous(), "grad_x": grad_x}
    # Weight and labels are there already: weighting, mu and superpixels are not looked at.
    run_loss("dynamic_loss_backward", x, mask, None, None, "fixed", 1.0, arrays)
    return grad_x


@_dynamic_loss_backward.register_fake
def _(grad_loss: Tensor, x: Tensor, mask: Tensor | None, labels: Tensor, logsumexp: Tensor, weight: Tensor) -> Tensor:
    return empty_result(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Forward) -> None:
    x, mask, *_ = inputs
    _, *constants, logsumexp = output
    _, _, weight, _, labels = constants
    ctx.save_for_backward(x, mask, labels, logsumexp, weight)
    ctx.mark_non_differentiable(*constants, logsumexp)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, None, None, None, None, None]:
    if grad_loss is None:
        return None, None, None, None, None, None
    return _dynamic_loss_backward(grad_loss, *ctx.saved_tensors), None, None, None, None, None


_dynamic_loss.register_autograd(_backward, setup_context=_setup_context)
