"""The loss in the form of the published scripts, operation for operation, in plain PyTorch.

Training is chaotic: after twenty steps, losses that differ in their last bit differ by several per cent. Whoever wants
the numbers of the published scripts needs their operations in their order, and pays for them in time. Everything else
is served by ``ops.dynamic_loss``. The formulas are those of ``reference``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dynamicseg.reference import DynamicLossOutput
from dynamicseg.weighting import Weighting


def published_loss(x: Tensor, weighting: Weighting, mu: float) -> DynamicLossOutput:
    """The loss of one image, ``[1, C, H, W]`` of either memory format, everything in the dtype of ``x``.

    The map is copied to channels last, its labels are taken, the differences of neighbours are held against zeros with
    an L1 loss and the responses against their own labels with a cross-entropy; labels are counted as a Python number.
    """
    _, channels, height, width = x.shape
    responses = x.permute(0, 2, 3, 1).contiguous().view(height * width, channels)
    labels = responses.argmax(dim=1)

    grid = responses.view(height, width, channels)
    vertical, horizontal = grid[1:] - grid[:-1], grid[:, 1:] - grid[:, :-1]
    continuity = _mean_size(vertical) + _mean_size(horizontal)

    similarity = functional.cross_entropy(responses, labels)
    label_count = len(torch.unique(labels))
    weight = _weight(weighting, mu, label_count)
    loss = similarity + weight * continuity
    return DynamicLossOutput(
        loss=loss[None],
        similarity=similarity.detach()[None],
        continuity=continuity.detach()[None],
        weight=loss.new_tensor([weight]),
        label_counts=torch.tensor([label_count]),
        labels=labels.view(1, height, width),
    )


def published_loss_and_grad(x: Tensor, weighting: Weighting, mu: float) -> tuple[DynamicLossOutput, Tensor]:
    """``published_loss`` and its gradient, as ``ops.dynamic_loss_and_grad`` gives them."""
    leaf = x.detach().requires_grad_()
    output = published_loss(leaf, weighting, mu)
    (grad_x,) = torch.autograd.grad(output.loss.sum(), leaf)
    # The scripts cut the image out of its batch by an index, whose gradient is contiguous; batch norm sums it in order.
    return output._replace(loss=output.loss.detach()), grad_x.contiguous()


def _mean_size(differences: Tensor) -> Tensor:
    """Mean absolute value; 0 where there is no difference, in an image of one row or column."""
    zero = torch.zeros((), dtype=differences.dtype, device=differences.device)
    if differences.numel() == 0:
        return zero
    return functional.l1_loss(differences, zero.expand_as(differences))


def _weight(weighting: Weighting, mu: float, label_count: int) -> float:
    if weighting == "fsf":
        return label_count / mu
    if weighting == "scf":
        return mu / label_count
    return mu
