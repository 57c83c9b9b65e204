"""How much memory training takes, and what to say where there is less."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dynamicseg.config import SegmenterConfig
from dynamicseg.memory import available_memory

# Arrays of the size of a response map that are alive at once in a training step, measured: those kept for the backward
# pass, gradients, what the convolution libraries reorder; and the differences and copies of the published loss.
_MAPS_PER_LAYER = 6
_MAPS_BESIDES = 4
_MAPS_OF_PUBLISHED_LOSS = 8
# Of a pretrained network, which keeps nothing for a backward pass: what goes into a layer, what comes out, what is
# reordered; and of its planes, before and after they are joined.
_MAPS_OF_BACKBONE = 3
_MAPS_OF_PLANES = 2


def training_bytes(shape: tuple[int, ...], config: SegmenterConfig) -> int:
    """About how much memory training on an image ``[H, W, C]`` takes."""
    maps = _MAPS_PER_LAYER * (config.depth + 1) + _MAPS_BESIDES
    maps += _MAPS_OF_PUBLISHED_LOSS if config.loss == "published" else 0
    element = 2 if config.precision == "bfloat16" else 4
    return shape[0] * shape[1] * config.channels * element * maps


def too_large(
    shape: tuple[int, ...], config: SegmenterConfig, device: torch.device, available: int | None, *, images: int = 1
) -> str:
    """``available``: how many bytes are free; None where nobody knows. ``images``: of this shape, side by side."""
    needed = images * training_bytes(shape, config)
    # A little less than what fits: how much is free changes from moment to moment.
    scale = 0.5 if available is None else 0.95 * math.sqrt(available / needed)
    max_side = max(2, int(max(shape[:2]) * scale))
    free = "is" if available is None else f"the {available / 1e9:.1f} GB that are"
    size = f"{shape[1]}x{shape[0]} pixels" if images == 1 else f"{images} images of {shape[1]}x{shape[0]} pixels"
    return (
        f"training on {size} takes about {needed / 1e9:.1f} GB, more than {free} free on {device}: segment at reduced "
        f"size with --max-side {max_side} (in Python max_side={max_side}), or cut it into parts"
    )


def check_memory(
    shape: tuple[int, ...],
    config: SegmenterConfig,
    device: torch.device,
    *,
    images: int = 1,
    available: int | None = None,
) -> None:
    """Refuses what would not fit, before the system starts to swap or ends the process.

    ``images`` of this shape are trained on side by side. ``available``: bytes, where they are known; None: asks the
    device.
    """
    if available is None:
        available = available_on(device)
    if available is not None and images * training_bytes(shape, config) > available:
        raise MemoryError(too_large(shape, config, device, available, images=images))


def images_that_fit(shape: tuple[int, ...], config: SegmenterConfig, device: torch.device, most: int) -> int:
    """How many images of this shape can be trained on side by side: 1 to ``most``."""
    available = available_on(device)
    return most if available is None else max(1, min(most, available // training_bytes(shape, config)))


def available_on(device: torch.device) -> int | None:
    """Bytes that this process can have there: those that nobody has, and what PyTorch keeps for its next tensors."""
    if device.type == "cpu":
        return available_memory()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def features_bytes(size: Sequence[int], largest: int, planes: int) -> int:
    """About how much memory features of an image ``[H, W, ...]`` take while they are made.

    Args:
        size: height and width first.
        largest: numbers for each pixel in the largest tensor of the pretrained network.
        planes: that are made of its maps, at the size of the image.
    """
    return size[0] * size[1] * 4 * (_MAPS_OF_BACKBONE * largest + _MAPS_OF_PLANES * planes)


def check_features_memory(size: Sequence[int], largest: int, planes: int, device: torch.device) -> None:
    """Refuses an image whose features would not fit, see ``features_bytes``."""
    available = available_on(device)
    needed = features_bytes(size, largest, planes)
    if available is not None and needed > available:
        max_side = max(2, int(max(size[:2]) * 0.95 * math.sqrt(available / needed)))
        raise MemoryError(
            f"features of an image of {size[1]}x{size[0]} pixels take about {needed / 1e9:.1f} GB, more than the "
            f"{available / 1e9:.1f} GB that are free on {device}: make images no larger than {max_side} pixels a side, "
            "or leave features out"
        )
