"""The mathematics of the dynamically weighted loss in plain PyTorch: the truth that the kernels are tested against.

Symbols: ``x`` is the response map, ``[B, C, H, W]``: logits of C candidate labels per pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dynamicseg.weighting import Weighting, checked_mu

DEFAULT_EPS = 1e-5
"""Added to the variance by batch norm: that of ``torch.nn.BatchNorm2d``."""


class DynamicLossOutput(NamedTuple):
    """What the loss tells of each image; only ``loss`` carries a gradient.

    Statistics are float64 for a float64 map and float32 for every other.
    """

    loss: Tensor
    """``[B]``: ``similarity + weight * continuity``."""
    similarity: Tensor
    """``[B]``: mean cross-entropy of the map with its own labels."""
    continuity: Tensor
    """``[B]``: mean absolute difference of vertical neighbours plus that of horizontal ones."""
    weight: Tensor
    """``[B]``: what continuity counts."""
    label_counts: Tensor
    """``[B]`` int64: number of distinct labels, K."""
    labels: Tensor
    """``[B, H, W]`` int64: argmax over channels, the lowest on a tie; -1 where masked."""


def label_map(x: Tensor) -> Tensor:
    """``l[b,h,w] = argmax_c x[b,c,h,w]``, the lowest index on a tie; a NaN counts as the greatest number."""
    return x.argmax(dim=1)


def label_count(labels: Tensor) -> Tensor:
    """``K_b``: number of distinct labels of each image, ``[B]`` int64. Negative labels are not counted."""
    counts = [image.unique() for image in labels]
    return torch.tensor([int((found >= 0).sum()) for found in counts], dtype=torch.int64, device=labels.device)


def united_labels(labels: Tensor, superpixels: Tensor, channels: int) -> Tensor:
    """The most frequent label of each superpixel at all of its pixels, the lowest on a tie; negative labels stay.

    Targets made consistent in this way go back to Kanezaki, ICASSP 2018.
    """
    united = labels.clone()
    for image, image_superpixels in zip(united, superpixels, strict=True):
        labelled = image >= 0
        count = int(image_superpixels.max()) + 1 if image_superpixels.numel() else 0
        flat = image_superpixels[labelled] * channels + image[labelled]
        histograms = torch.bincount(flat, minlength=count * channels).view(count, channels)
        if count:
            image[labelled] = histograms.argmax(dim=1)[image_superpixels[labelled]]
    return united


def dynamic_weight(weighting: Weighting, mu: float, label_counts: Tensor) -> Tensor:
    """Weight on continuity, ``[B]`` float64. An image without a valid pixel has no label and is taken to have one."""
    labels = label_counts.clamp(min=1).double()
    if weighting == "fsf":
        return labels / mu
    if weighting == "scf":
        return mu / labels
    return torch.full_like(labels, mu)


def mean_over(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values`` ``[B, ...]`` over the elements that are ``valid``, image by image; 0 where none is."""
    valid = valid.expand_as(values)
    total = torch.where(valid, values, torch.zeros_like(values)).flatten(1).sum(dim=1)
    return total / valid.flatten(1).sum(dim=1).clamp(min=1)


def dynamic_loss(
    x: Tensor,
    *,
    weighting: Weighting = "fsf",
    mu: float | None = None,
    mask: Tensor | None = None,
    superpixels: Tensor | None = None,
) -> DynamicLossOutput:
    """``L_b = S_b + w_b * T_b`` for each image of a batch, differentiable in ``x``.

    The labels and their count are constants of the gradient; the derivative of ``|t|`` is ``sign(t)``, ``sign(0) = 0``.

    Args:
        x: ``[B, C, H, W]`` response map, any floating dtype; sums are in float32 at least.
        weighting: see ``weighting.Weighting``.
        mu: its constant, > 0; by default the published one, ``DEFAULT_MU``.
        mask: ``[B, H, W]`` bool, true where there is data; masked pixels enter no term, and a pair of neighbours counts
            only where both are valid.
        superpixels: ``[B, H, W]`` int64 numbers of superpixels, >= 0. The label of each pixel is then the most frequent
            argmax in its superpixel, the lowest on a tie, in place of its own; ``K_b`` counts those.
    """
    mu = checked_mu(weighting, mu)
    valid = torch.ones_like(x[:, 0], dtype=torch.bool) if mask is None else mask
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    x = torch.where(valid[:, None], x, torch.zeros_like(x))  # a masked NaN would spoil the gradient of its neighbours

    labels = label_map(x).masked_fill(~valid, -1)
    if superpixels is not None:
        labels = united_labels(labels, superpixels, x.shape[1])
    own_response = x.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    similarity = mean_over(x.logsumexp(dim=1) - own_response, valid)

    vertical = mean_over((x[:, :, 1:, :] - x[:, :, :-1, :]).abs(), (valid[:, 1:, :] & valid[:, :-1, :])[:, None])
    horizontal = mean_over((x[:, :, :, 1:] - x[:, :, :, :-1]).abs(), (valid[:, :, 1:] & valid[:, :, :-1])[:, None])
    continuity = vertical + horizontal

    label_counts = label_count(labels)
    weight = dynamic_weight(weighting, mu, label_counts).to(x.dtype)
    loss = similarity + weight * continuity
    return DynamicLossOutput(loss, similarity.detach(), continuity.detach(), weight, label_counts, labels)


def relu_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = True, eps: float = DEFAULT_EPS) -> Tensor:
    """``weight * (r - mean(r)) / sqrt(variance(r) + eps) + bias`` with ``r = relu(x)``, differentiable in all three.

    Args:
        x: ``[B, C, H, W]`` map, any floating dtype.
        weight: ``[C]``, float32 at least.
        bias: ``[C]``, likewise.
        relu: whether negative values are set to 0 first; without it, ``r = x``.
        eps: added to the variance, which is biased; like the mean it is over the pixels of all images.
    """
    rectified = functional.relu(x) if relu else x
    return functional.batch_norm(rectified, None, None, weight, bias, training=True, eps=eps)


def batch_norm_dynamic_loss(
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    weighting: Weighting = "fsf",
    mu: float | None = None,
    mask: Tensor | None = None,
    superpixels: Tensor | None = None,
    eps: float = DEFAULT_EPS,
) -> DynamicLossOutput:
    """``dynamic_loss`` of ``relu_batch_norm(z, weight, bias, relu=False)``, which is in float32 at least.

    Statistics of the batch norm are those of all pixels, masked ones included. Arguments as in those two.
    """
    z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
    x = relu_batch_norm(z, weight, bias, relu=False, eps=eps)
    return dynamic_loss(x, weighting=weighting, mu=mu, mask=mask, superpixels=superpixels)
