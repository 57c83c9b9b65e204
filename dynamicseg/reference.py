"""The mathematics of the dynamically weighted loss in plain PyTorch: the truth that the kernels are tested against.

Symbols: ``x`` is the response map, ``[B, C, H, W]``: logits of C candidate labels per pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dynamicseg.terms import NO_LABEL, SCRIBBLE_WEIGHT, Continuity
from dynamicseg.weighting import Weighting, checked_mu

DEFAULT_EPS = 1e-5
"""Added to the variance by batch norm: that of ``torch.nn.BatchNorm2d``."""


class DynamicLossOutput(NamedTuple):
    """What the loss tells of each image; only ``loss`` carries a gradient.

    Statistics are float64 for a float64 map and float32 for every other.
    """

    loss: Tensor
    """``[B]``: ``similarity + weight * continuity``, and ``SCRIBBLE_WEIGHT * scribble + guide_weight * guide``."""
    similarity: Tensor
    """``[B]``: mean cross-entropy of the map with its own labels, of pixels without a scribble."""
    continuity: Tensor
    """``[B]``: mean size of the differences of vertical neighbours, plus that of horizontal, perhaps diagonal ones."""
    weight: Tensor
    """``[B]``: what continuity counts."""
    label_counts: Tensor
    """``[B]`` int64: number of distinct labels, K."""
    labels: Tensor
    """``[B, H, W]`` int64: argmax over channels, the lowest on a tie; -1 where masked."""
    scribble: Tensor
    """``[B]``: mean cross-entropy of the map with the scribbled labels; 0 where there is no scribble."""
    guide: Tensor
    """``[B]``: mean cross-entropy of the map with the guide's labels, unweighted; 0 where it has none."""


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


def dynamic_weight(weighting: Weighting, mu: float, label_counts: Tensor, label_floor: int = 1) -> Tensor:
    """Weight on continuity, ``[B]`` float64. An image with fewer labels than the floor is taken to have as many."""
    labels = label_counts.clamp(min=label_floor).double()
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


def size_of_difference(a: Tensor, b: Tensor, continuity: Continuity) -> Tensor:
    """What each difference of neighbours counts in the continuity."""
    if continuity == "l1":
        return (b - a).abs()
    return functional.smooth_l1_loss(b, a, reduction="none")


def neighbour_pairs(of_pixels: Tensor, diagonals: bool) -> list[tuple[Tensor, Tensor]]:
    """``[..., H, W]`` at both ends of all pairs of vertical, of horizontal and perhaps of diagonal neighbours."""
    upper, lower = of_pixels[..., :-1, :], of_pixels[..., 1:, :]
    pairs = [(upper, lower), (of_pixels[..., :-1], of_pixels[..., 1:])]
    if diagonals:
        pairs += [(upper[..., :-1], lower[..., 1:]), (upper[..., 1:], lower[..., :-1])]
    return pairs


def has_label(labels: Tensor | None, x: Tensor) -> Tensor:
    """Where a map of labels has one of a channel of ``x``, ``[B, H, W]`` bool; nowhere without a map."""
    if labels is None:
        return torch.zeros_like(x[:, 0], dtype=torch.bool)
    return (labels > NO_LABEL) & (labels < x.shape[1])


def mean_cross_entropy(x: Tensor, logsumexp: Tensor, labels: Tensor | None, counted: Tensor) -> Tensor:
    """Mean of ``logsumexp_c x - x[label]`` over the pixels that are ``counted``, image by image; 0 where none is."""
    if labels is None:
        return logsumexp.new_zeros(len(x))
    response = x.gather(1, labels.where(counted, torch.zeros_like(labels))[:, None])[:, 0]
    return mean_over(logsumexp - response, counted)


def dynamic_loss(
    x: Tensor,
    *,
    weighting: Weighting = "fsf",
    mu: float | None = None,
    mask: Tensor | None = None,
    superpixels: Tensor | None = None,
    continuity: Continuity = "l1",
    diagonals: bool = False,
    label_floor: int = 1,
    scribbles: Tensor | None = None,
    guide: Tensor | None = None,
    guide_weight: float | Tensor = 1.0,
) -> DynamicLossOutput:
    """``L_b = S_b + w_b * T_b``, and the optional terms, for each image of a batch, differentiable in ``x``.

    The labels and their count are constants of the gradient; the derivative of ``|t|`` is ``sign(t)``, ``sign(0) = 0``.

    Args:
        x: ``[B, C, H, W]`` response map, any floating dtype; sums are in float32 at least.
        weighting: see ``weighting.Weighting``.
        mu: its constant, > 0; by default the published one, ``DEFAULT_MU``.
        mask: ``[B, H, W]`` bool, true where there is data; masked pixels enter no term, and a pair of neighbours counts
            only where both are valid.
        superpixels: ``[B, H, W]`` int64 numbers of superpixels, >= 0. The label of each pixel is then the most frequent
            argmax in its superpixel, the lowest on a tie, in place of its own; ``K_b`` counts those.
        continuity: see ``terms.Continuity``.
        diagonals: whether ``T_b`` also has the means over the pairs ``(h, w), (h + 1, w + 1)`` and over the pairs
            ``(h, w), (h + 1, w - 1)``.
        label_floor: the weight is that of ``max(K_b, label_floor)`` labels.
        scribbles: ``[B, H, W]`` int64 labels drawn by hand, 0 .. C - 1; any other number, -1 above all, is none.
            ``S_b`` is then over the pixels without one, and ``SCRIBBLE_WEIGHT`` times the mean cross-entropy with the
            scribbled labels is added. Labels and ``K_b`` stay those of the map.
        guide: ``[B, H, W]`` int64 labels of another model, likewise; ``guide_weight`` times the mean cross-entropy with
            them is added.
        guide_weight: >= 0: a number, or a tensor ``[B]`` or ``[]``; a constant of the gradient.
    """
    mu = checked_mu(weighting, mu)
    valid = torch.ones_like(x[:, 0], dtype=torch.bool) if mask is None else mask
    x = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    x = torch.where(valid[:, None], x, torch.zeros_like(x))  # a masked NaN would spoil the gradient of its neighbours

    labels = label_map(x).masked_fill(~valid, NO_LABEL)
    if superpixels is not None:
        labels = united_labels(labels, superpixels, x.shape[1])
    scribbled, guided = valid & has_label(scribbles, x), valid & has_label(guide, x)
    logsumexp = x.logsumexp(dim=1)
    similarity = mean_cross_entropy(x, logsumexp, labels, valid & ~scribbled)
    of_scribbles = mean_cross_entropy(x, logsumexp, scribbles, scribbled)
    of_guide = mean_cross_entropy(x, logsumexp, guide, guided)

    pairs = zip(neighbour_pairs(x, diagonals), neighbour_pairs(valid, diagonals), strict=True)
    means = [
        mean_over(size_of_difference(a, b, continuity), (a_valid & b_valid)[:, None])
        for (a, b), (a_valid, b_valid) in pairs
    ]
    of_neighbours = torch.stack(means).sum(dim=0)

    label_counts = label_count(labels)
    weight = dynamic_weight(weighting, mu, label_counts, label_floor).to(x.dtype)
    if isinstance(guide_weight, Tensor):
        guide_weight = guide_weight.detach()
    loss = similarity + weight * of_neighbours + SCRIBBLE_WEIGHT * of_scribbles + guide_weight * of_guide
    return DynamicLossOutput(
        loss=loss,
        similarity=similarity.detach(),
        continuity=of_neighbours.detach(),
        weight=weight,
        label_counts=label_counts,
        labels=labels,
        scribble=of_scribbles.detach(),
        guide=of_guide.detach(),
    )


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
    continuity: Continuity = "l1",
    diagonals: bool = False,
    label_floor: int = 1,
    scribbles: Tensor | None = None,
    guide: Tensor | None = None,
    guide_weight: float | Tensor = 1.0,
    eps: float = DEFAULT_EPS,
) -> DynamicLossOutput:
    """``dynamic_loss`` of ``relu_batch_norm(z, weight, bias, relu=False)``, which is in float32 at least.

    Statistics of the batch norm are those of all pixels, masked ones included. Arguments as in those two.
    """
    z = z.float() if z.dtype in (torch.bfloat16, torch.float16) else z
    x = relu_batch_norm(z, weight, bias, relu=False, eps=eps)
    return dynamic_loss(
        x,
        weighting=weighting,
        mu=mu,
        mask=mask,
        superpixels=superpixels,
        continuity=continuity,
        diagonals=diagonals,
        label_floor=label_floor,
        scribbles=scribbles,
        guide=guide,
        guide_weight=guide_weight,
    )
