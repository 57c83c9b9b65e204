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


def published_loss_and_grad(x: Tensor, weighting: Weighting, mu: float) -> tuple[DynamicLossOutput, Tensor]:
    """Loss and gradient of one image, ``[1, C, H, W]`` of either memory format, everything in the dtype of ``x``.

    The map is copied to channels last, its labels are taken, the differences of neighbours go into an L1 loss and the
    responses into a cross-entropy with their own labels; labels are counted as a Python number. The gradient is that of
    autograd to the bit, without the maps of zeros that autograd makes for each side of each difference: what is added
    to a zero stays what it is, and the other sums keep their order.
    """
    _, channels, height, width = x.shape
    responses = x.detach().permute(0, 2, 3, 1).contiguous().view(height * width, channels).requires_grad_()
    labels = responses.argmax(dim=1)
    similarity = functional.cross_entropy(responses, labels)
    (grad,) = torch.autograd.grad(similarity, responses)
    similarity = similarity.detach()

    grid = responses.detach().view(height, width, channels)
    vertical, horizontal = grid[1:] - grid[:-1], grid[:, 1:] - grid[:, :-1]
    continuity = _mean_size(vertical) + _mean_size(horizontal)
    label_count = len(torch.unique(labels))
    weight = published_weight(weighting, mu, label_count)
    vertical, horizontal = _grad_of_mean_size(vertical, weight), _grad_of_mean_size(horizontal, weight)

    # In the order in which autograd comes upon them: right before left, lower before upper, and similarity at the end.
    grad_continuity = torch.empty_like(grid)
    torch.neg(horizontal, out=grad_continuity[:, :-1])
    grad_continuity[:, -1] = 0
    grad_continuity[:, 1:] += horizontal
    grad_continuity[:-1] -= vertical
    grad_continuity[1:] += vertical
    grad = grad.view(height, width, channels).add_(grad_continuity)

    loss = similarity + weight * continuity
    output = DynamicLossOutput(
        loss=loss[None],
        similarity=similarity[None],
        continuity=continuity[None],
        weight=loss.new_tensor([weight]),
        label_counts=torch.tensor([label_count]),
        labels=labels.view(1, height, width),
        scribble=loss.new_zeros(1),
        guide=loss.new_zeros(1),
    )
    # The scripts cut the image out of its batch by an index, whose gradient is contiguous; batch norm sums it in order.
    return output, grad.permute(2, 0, 1)[None].contiguous()


def _grad_of_mean_size(differences: Tensor, weight: float) -> Tensor:
    """The gradient of ``weight * _mean_size(differences)``; written over the differences."""
    if differences.numel() == 0:
        return differences
    of_one = differences.new_tensor(1.0) * weight / differences.numel()
    return differences.sgn_().mul_(of_one)


def _mean_size(differences: Tensor) -> Tensor:
    """Mean absolute value; 0 where there is no difference, in an image of one row or column."""
    return differences.abs().mean() if differences.numel() > 0 else differences.new_zeros(())


def published_weight(weighting: Weighting, mu: float, label_count: int) -> float:
    """The weight on continuity, as a Python number."""
    if weighting == "fsf":
        return label_count / mu
    if weighting == "scf":
        return mu / label_count
    return mu
