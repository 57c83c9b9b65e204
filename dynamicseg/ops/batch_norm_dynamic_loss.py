"""``dynamicseg::batch_norm_dynamic_loss_and_grad``: a network's last batch norm and the loss in one call.

The normalised map is never written: the kernels of ``dynamic_loss`` normalise what they read.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicseg import _native, reference
from dynamicseg.ops import _runtime
from dynamicseg.ops._library import operator
from dynamicseg.ops._loss_arguments import LOSS_SCHEMA, LossArguments, checked_arguments
from dynamicseg.ops._maps import empty_result, result_memory
from dynamicseg.ops.dynamic_loss import empty_outputs, reference_options, returned, run_loss, split_outputs
from dynamicseg.ops.relu_batch_norm import check_affine
from dynamicseg.reference import DEFAULT_EPS, DynamicLossOutput
from dynamicseg.terms import Continuity
from dynamicseg.weighting import Weighting


class BatchNormGrads(NamedTuple):
    """Gradients of the mean loss over a batch."""

    grad_z: Tensor
    """``[B, C, H, W]``, in dtype and memory format of ``z``."""
    grad_weight: Tensor
    """``[C]``."""
    grad_bias: Tensor
    """``[C]``."""


def batch_norm_dynamic_loss_and_grad(
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    weighting: Weighting = "fsf",
    mu: float | None = None,
    mask: Tensor | None = None,
    superpixels: Tensor | None = None,
    superpixel_count: int | None = None,
    continuity: Continuity = "l1",
    diagonals: bool = False,
    label_floor: int = 1,
    scribbles: Tensor | None = None,
    guide: Tensor | None = None,
    guide_weight: float | Tensor = 1.0,
    eps: float = DEFAULT_EPS,
) -> tuple[DynamicLossOutput, BatchNormGrads]:
    """``dynamic_loss`` of batch-normalised ``z``, and the gradients of its mean over the batch, outside autograd.

    For a training loop of one's own: ``output, grads = batch_norm_dynamic_loss_and_grad(z, norm.weight, norm.bias)``;
    ``z.backward(grads.grad_z)``; the other two go to the batch norm's parameters. The same as
    ``dynamic_loss_and_grad(relu_batch_norm(z, weight, bias, relu=False))``, but the normalised map is not rounded to
    the dtype of ``z``, nor written. Its labels are the argmax of that map. Statistics are those of all pixels, masked
    ones included.

    Args:
        z: ``[B, C, H, W]`` map: float32, float64, bfloat16 or, on a GPU, float16; contiguous or channels last;
            B * H * W >= 2.
        weight: ``[C]``, float64 for a float64 map, else float32.
        bias: ``[C]``, in the dtype of ``weight``.
        weighting: see ``ops.dynamic_loss``, as for all that follow.
        mu: constant of the weighting.
        mask: ``[B, H, W]`` bool.
        superpixels: ``[B, H, W]`` int64.
        superpixel_count: a number that is above those of all superpixels.
        continuity: ``"l1"`` or ``"huber"``.
        diagonals: whether diagonal neighbours count as well.
        label_floor: the least number of labels to count.
        scribbles: ``[B, H, W]`` int64.
        guide: ``[B, H, W]`` int64.
        guide_weight: a number, or a tensor ``[B]`` or ``[]``.
        eps: added to the variance, > 0.

    Returns:
        The output of ``dynamic_loss``, and ``BatchNormGrads``.

    Raises:
        TypeError: an argument is not a tensor of the right dtype.
        ValueError: a shape, a device, the weighting, mu, eps, another option or a number in a map is wrong.
    """
    arguments = checked_arguments(
        "z",
        z,
        mask=mask,
        superpixels=superpixels,
        superpixel_count=superpixel_count,
        scribbles=scribbles,
        guide=guide,
        guide_weight=guide_weight,
        weighting=weighting,
        mu=mu,
        continuity=continuity,
        diagonals=diagonals,
        label_floor=label_floor,
    )
    check_affine("z", z, weight, bias, eps)
    z, weight, bias = z.detach(), weight.detach(), bias.detach()
    if _runtime.backend_for(z.device) == "reference":
        with torch.enable_grad():
            leaves = [leaf.requires_grad_() for leaf in (z, weight, bias)]
            output = reference.batch_norm_dynamic_loss(*leaves, **reference_options(z, arguments), eps=eps)
            of_leaves = torch.autograd.grad(output.loss.mean(), leaves)
        return output._replace(loss=output.loss.detach()), BatchNormGrads(*of_leaves)
    output, grads = split_outputs(_batch_norm_dynamic_loss_and_grad(z, weight, bias, eps, *arguments))
    return output, BatchNormGrads(*grads)


# ---- torch.library ---------------------------------------------------------------------------------------------------


def _fake_batch_norm_dynamic_loss_and_grad(z: Tensor, weight: Tensor, bias: Tensor, *_: Any) -> tuple[Tensor, ...]:
    grads = (empty_result(z), weight.new_empty(weight.shape), bias.new_empty(bias.shape))
    return (*empty_outputs(z)[:-1], *grads)


@operator(
    "batch_norm_dynamic_loss_and_grad",
    f"(Tensor z, Tensor weight, Tensor bias, float eps, {LOSS_SCHEMA}) -> "
    + returned(len(DynamicLossOutput._fields) + len(BatchNormGrads._fields)),
    fake=_fake_batch_norm_dynamic_loss_and_grad,
)
def _batch_norm_dynamic_loss_and_grad(
    z: Tensor, weight: Tensor, bias: Tensor, eps: float, *arguments: Any
) -> tuple[Tensor, ...]:
    outputs = empty_outputs(z)
    weight, bias = weight.contiguous(), bias.contiguous()
    grad_z, grad_weight, grad_bias = result_memory(z), torch.empty_like(weight), torch.empty_like(bias)

    def with_norm(loss: _native.DynamicLossParams) -> _native.BatchNormDynamicLossParams:
        return _native.BatchNormDynamicLossParams(
            loss=loss,
            eps=eps,
            weight=weight.data_ptr(),
            bias=bias.data_ptr(),
            grad_weight=grad_weight.data_ptr(),
            grad_bias=grad_bias.data_ptr(),
        )

    grad_loss = torch.full_like(outputs.loss, 1 / len(z))
    arrays = outputs._asdict() | {"grad_x": grad_z, "grad_loss": grad_loss}
    run_loss("batch_norm_dynamic_loss", z, LossArguments(*arguments), arrays, with_norm)
    return (*outputs[:-1], grad_z, grad_weight, grad_bias)
