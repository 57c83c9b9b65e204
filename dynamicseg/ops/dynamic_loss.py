"""``dynamicseg::dynamic_loss``: the loss of section "the mathematics" in the docs, fused.

Fake and autograd registrations are in Python, so that the native core needs no torch to build and serves every version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicseg import _native, reference
from dynamicseg.ops._maps import DTYPES, check_map, dense_format, empty_result, result_memory, statistic_dtype
from dynamicseg.ops._runtime import backend_for, lend_threads
from dynamicseg.reference import DynamicLossOutput
from dynamicseg.weighting import Weighting, checked_mu


def dynamic_loss(
    x: Tensor,
    *,
    weighting: Weighting = "fsf",
    mu: float | None = None,
    mask: Tensor | None = None,
    superpixels: Tensor | None = None,
) -> DynamicLossOutput:
    """The dynamically weighted loss of each image of a batch; the same as ``reference.dynamic_loss``, fused.

    Nothing of the size of ``x`` is written, but the gradient when it is asked for. Maps whose rows or whose channels
    are dense are read where they are, crops included; any other is copied first. The same input gives the same bits.

    Args:
        x: ``[B, C, H, W]`` response map: float32, float64 or bfloat16, contiguous or channels last. C >= 1.
        weighting: ``"fsf"``, ``"scf"`` or ``"fixed"``, see ``weighting.Weighting``.
        mu: constant of the weighting, > 0; by default the published one: 15, 50, 1.
        mask: ``[B, H, W]`` bool, true where there is data; default: everywhere.
        superpixels: ``[B, H, W]`` int64, numbers of superpixels from 0, with few gaps: the label of each pixel is then
            the most frequent one in its superpixel in place of its own.

    Returns:
        ``DynamicLossOutput``: ``loss`` (the only one with a gradient), ``similarity``, ``continuity``, ``weight``,
        ``label_counts``, all ``[B]``, and ``labels`` ``[B, H, W]``.

    Raises:
        TypeError: ``x`` or ``mask`` is not a tensor of the right dtype.
        ValueError: the shape, weighting or mu is wrong, or ``mask`` is on another device.
    """
    mu = check_loss("x", x, weighting, mu, mask, superpixels)
    if backend_for(x.device) == "reference":
        return reference.dynamic_loss(x, weighting=weighting, mu=mu, mask=mask, superpixels=superpixels)
    *statistics, _ = _dynamic_loss(x, mask, superpixels, weighting, mu)
    return DynamicLossOutput(*statistics)


def dynamic_loss_and_grad(
    x: Tensor,
    *,
    weighting: Weighting = "fsf",
    mu: float | None = None,
    mask: Tensor | None = None,
    superpixels: Tensor | None = None,
) -> tuple[DynamicLossOutput, Tensor]:
    """``dynamic_loss`` and the gradient of its mean over the batch, in one native call, outside autograd.

    For a training loop of one's own: ``output, grad_x = dynamic_loss_and_grad(x); x.backward(grad_x)``.
    Arguments and errors as in ``dynamic_loss``. The gradient is ``[B, C, H, W]``, in dtype and memory format of ``x``.
    """
    mu = check_loss("x", x, weighting, mu, mask, superpixels)
    x = x.detach()
    if backend_for(x.device) == "reference":
        with torch.enable_grad():
            leaf = x.requires_grad_()
            output = reference.dynamic_loss(leaf, weighting=weighting, mu=mu, mask=mask, superpixels=superpixels)
            (grad_x,) = torch.autograd.grad(output.loss.sum() / max(len(output.loss), 1), leaf)
        return output._replace(loss=output.loss.detach()), grad_x
    *statistics, grad_x = _dynamic_loss_and_grad(x, mask, superpixels, weighting, mu)
    return DynamicLossOutput(*statistics), grad_x


def check_loss(
    name: str, x: Tensor, weighting: Weighting, mu: float | None, mask: Tensor | None, superpixels: Tensor | None
) -> float:
    """Every argument of a loss of the map ``x``, which goes by ``name``, against what kernels take; returns mu."""
    check_map(name, x)
    mu = checked_mu(weighting, mu)
    if mask is not None:
        _check_beside(name, x, "mask", mask, torch.bool, "true where there is data")
    if superpixels is not None:
        _check_beside(name, x, "superpixels", superpixels, torch.int64, "numbers of superpixels")
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


def _numbered(superpixels: Tensor | None) -> tuple[Tensor | None, int]:
    """Superpixels as the kernels read them, and how many there are."""
    if superpixels is None or superpixels.numel() == 0:
        return None, 0
    lowest, highest = (int(number) for number in superpixels.aminmax())
    if lowest < 0 or highest >= superpixels[0].numel():
        raise ValueError(
            f"superpixels are numbered from {lowest} to {highest}: number them from 0 to less than the number of "
            "pixels, for example with skimage.segmentation.relabel_sequential"
        )
    return superpixels.to(torch.int32).contiguous(), highest + 1


def run_loss(
    kernel: Callable[[_native.DynamicLossParams], None],
    x: Tensor,
    mask: Tensor | None,
    superpixels: Tensor | None,
    weighting: str,
    mu: float,
    **arrays: Tensor,
) -> None:
    """Runs a native function on the tensors' memory; the names of ``arrays`` are those of the kernel interface."""
    memory_format = dense_format(x)
    if memory_format is None:
        x, memory_format = x.contiguous(), "contiguous"
    mask = None if mask is None else mask.contiguous()
    superpixels, superpixel_count = _numbered(superpixels)
    addresses = dict.fromkeys((*_Outputs._fields, "grad_x", "grad_loss"), 0) | {
        name: array.data_ptr() for name, array in arrays.items()
    }
    lend_threads()
    kernel(
        _native.DynamicLossParams(
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
    )


# ---- torch.library ---------------------------------------------------------------------------------------------------

_Forward = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
_ForwardAndGrad = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("dynamicseg::dynamic_loss", mutates_args=(), device_types="cpu")
def _dynamic_loss(x: Tensor, mask: Tensor | None, superpixels: Tensor | None, weighting: str, mu: float) -> _Forward:
    outputs = empty_outputs(x)
    run_loss(_native.dynamic_loss, x, mask, superpixels, weighting, mu, **outputs._asdict())
    return (*outputs,)


@_dynamic_loss.register_fake
def _(x: Tensor, mask: Tensor | None, superpixels: Tensor | None, weighting: str, mu: float) -> _Forward:
    return (*empty_outputs(x),)


@torch.library.custom_op("dynamicseg::dynamic_loss_and_grad", mutates_args=(), device_types="cpu")
def _dynamic_loss_and_grad(
    x: Tensor, mask: Tensor | None, superpixels: Tensor | None, weighting: str, mu: float
) -> _ForwardAndGrad:
    outputs = empty_outputs(x)
    grad_x = result_memory(x)
    grad_loss = torch.full_like(outputs.loss, 1 / max(len(x), 1))
    run_loss(
        _native.dynamic_loss,
        x,
        mask,
        superpixels,
        weighting,
        mu,
        **outputs._asdict(),
        grad_x=grad_x,
        grad_loss=grad_loss,
    )
    return (*outputs[:-1], grad_x)  # no logsumexp: some kernels need none here, and leave it unwritten


@_dynamic_loss_and_grad.register_fake
def _(x: Tensor, mask: Tensor | None, superpixels: Tensor | None, weighting: str, mu: float) -> _ForwardAndGrad:
    return (*empty_outputs(x)[:-1], empty_result(x))


@torch.library.custom_op("dynamicseg::dynamic_loss_backward", mutates_args=(), device_types="cpu")
def _dynamic_loss_backward(
    grad_loss: Tensor, x: Tensor, mask: Tensor | None, labels: Tensor, logsumexp: Tensor, weight: Tensor
) -> Tensor:
    grad_x = result_memory(x)
    arrays = {"labels": labels, "logsumexp": logsumexp, "weight": weight, "grad_loss": grad_loss.contiguous()}
    # Weight and labels are there already: weighting, mu and superpixels are not looked at.
    run_loss(_native.dynamic_loss_backward, x, mask, None, "fixed", 1.0, **arrays, grad_x=grad_x)
    return grad_x


@_dynamic_loss_backward.register_fake
def _(grad_loss: Tensor, x: Tensor, mask: Tensor | None, labels: Tensor, logsumexp: Tensor, weight: Tensor) -> Tensor:
    return empty_result(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Forward) -> None:
    x, mask, _, _, _ = inputs
    _, *constants, logsumexp = output
    _, _, weight, _, labels = constants
    ctx.save_for_backward(x, mask, labels, logsumexp, weight)
    ctx.mark_non_differentiable(*constants, logsumexp)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, None, None, None, None]:
    if grad_loss is None:
        return None, None, None, None, None
    return _dynamic_loss_backward(grad_loss, *ctx.saved_tensors), None, None, None, None


_dynamic_loss.register_autograd(_backward, setup_context=_setup_context)
