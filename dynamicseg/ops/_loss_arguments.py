"""What a loss is told besides its map: checked, and in the form and order that the operators take it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dynamicseg.ops._maps import check_map, statistic_dtype
from dynamicseg.terms import NO_LABEL, checked_continuity, checked_guide_weight, checked_label_floor
from dynamicseg.weighting import checked_mu


class LossArguments(NamedTuple):
    """In the order of ``LOSS_SCHEMA``; see ``ops.dynamic_loss``."""

    mask: Tensor | None
    superpixels: Tensor | None
    superpixel_count: int | None
    scribbles: Tensor | None
    guide: Tensor | None
    guide_weight: Tensor | None
    """``[B]``, ``statistic_dtype``; None without a guide."""
    weighting: str
    mu: float
    continuity: str
    diagonals: bool
    label_floor: int


LOSS_SCHEMA = (
    "Tensor? mask, Tensor? superpixels, SymInt? superpixel_count, Tensor? scribbles, Tensor? guide, "
    "Tensor? guide_weight, str weighting, float mu, str continuity, bool diagonals, SymInt label_floor"
)
"""Of the operators whose arguments these are. By hand: PyTorch would want them all spelt out in each function."""


def checked_arguments(
    name: str,
    x: Tensor,
    *,
    mask: Tensor | None,
    superpixels: Tensor | None,
    superpixel_count: int | None,
    scribbles: Tensor | None,
    guide: Tensor | None,
    guide_weight: float | Tensor,
    weighting: str,
    mu: float | None,
    continuity: str,
    diagonals: bool,
    label_floor: int,
) -> LossArguments:
    """Every argument of a loss of the map ``x``, which goes by ``name``, against what the kernels take.

    The numbers in maps are looked at later, see ``check_label_maps``: there are none while PyTorch traces.
    """
    check_map(name, x)
    mu = checked_mu(weighting, mu)
    for map_name, value, dtype, meaning in (
        ("mask", mask, torch.bool, "true where there is data"),
        ("superpixels", superpixels, torch.int64, "numbers of superpixels"),
        ("scribbles", scribbles, torch.int64, "labels, -1 where nothing was drawn"),
        ("guide", guide, torch.int64, "labels, -1 where there is none"),
    ):
        if value is not None:
            _check_beside(name, x, map_name, value, dtype, meaning)
    if superpixel_count is not None:
        _check_superpixel_count(x, superpixels, superpixel_count)
    if not isinstance(diagonals, bool):
        raise TypeError(f"diagonals is {diagonals!r}: pass True or False")
    return LossArguments(
        mask=mask,
        superpixels=superpixels,
        superpixel_count=superpixel_count,
        scribbles=scribbles,
        guide=guide,
        guide_weight=_guide_weights(name, x, guide, guide_weight),
        weighting=weighting,
        mu=mu,
        continuity=checked_continuity(continuity),
        diagonals=diagonals,
        label_floor=checked_label_floor(label_floor),
    )


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


def _check_superpixel_count(x: Tensor, superpixels: Tensor | None, superpixel_count: int) -> None:
    if superpixels is None:
        raise ValueError(f"superpixel_count is {superpixel_count}, but there are no superpixels: pass both or none")
    pixels = x.shape[2] * x.shape[3]
    if pixels > 0 and not 1 <= superpixel_count <= pixels:
        raise ValueError(f"superpixel_count is {superpixel_count}: pass 1 to {pixels}, the number of pixels")


def _guide_weights(name: str, x: Tensor, guide: Tensor | None, guide_weight: float | Tensor) -> Tensor | None:
    """One for each image, where the kernels read them: ``[B]``, ``statistic_dtype``; None without a guide."""
    images, dtype = x.shape[0], statistic_dtype(x)
    if not isinstance(guide_weight, Tensor):
        number = checked_guide_weight(guide_weight)
        return None if guide is None else x.new_full((images,), number, dtype=dtype)
    if not guide_weight.dtype.is_floating_point:
        raise TypeError(f"guide_weight is {guide_weight.dtype}: pass a number >= 0, or a floating tensor [B] of them")
    if guide_weight.shape not in ((), (images,)):
        raise ValueError(f"guide_weight has shape {list(guide_weight.shape)}, {name} {list(x.shape)}: pass [] or [B]")
    if guide_weight.device != x.device:
        raise ValueError(f"guide_weight is on {guide_weight.device}, {name} on {x.device}: move one to the other")
    if guide is None:
        return None
    return guide_weight.detach().to(dtype).expand(images).contiguous()


def check_label_maps(x: Tensor, scribbles: Tensor | None, guide: Tensor | None, guide_weight: Tensor | None) -> None:
    """Raises ValueError where labels or weights of a guide are out of range.

    Not on a GPU, where looking at them would mean waiting for it; a label out of range is none there.
    """
    if x.device.type == "cuda":
        return
    channels = x.shape[1]
    for name, labels in (("scribbles", scribbles), ("guide", guide)):
        if labels is None or labels.numel() == 0:
            continue
        lowest, highest = map(int, labels.aminmax())
        if lowest < NO_LABEL or highest >= channels:
            raise ValueError(
                f"{name} has labels from {lowest} to {highest}: pass 0 to {channels - 1}, the channels of the map, and "
                f"{NO_LABEL} for none"
            )
    if guide_weight is not None and not bool((guide_weight.isfinite() & (guide_weight >= 0)).all()):
        raise ValueError(f"guide_weight is {guide_weight.tolist()}: pass finite numbers >= 0")
