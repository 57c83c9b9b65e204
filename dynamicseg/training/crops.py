"""Random crops of a set of images, of one size, so that they make a batch. The same step has the same crops always."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynamicseg.colours import within_0_and_1
from dynamicseg.io import unit_values
from dynamicseg.model import coordinates
from dynamicseg.partition import partition
from dynamicseg.superpixels import felzenszwalb_superpixels
from dynamicseg.training.config import TrainingConfig
from dynamicseg.training.images import ImageSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIGMA, _MIN_SIZE = 0.8, 20  # of superpixels, as in the preset fast


class Batch(NamedTuple):
    """What a training step sees."""

    planes: Tensor
    """``[B, bands, h, w]`` float32, with two planes of coordinates more if the network wants them."""
    superpixels: Tensor | None
    """``[B, h / stride, w / stride]`` int64, see ``ops.dynamic_loss``."""


def random_batch(
    images: ImageSet, numbers: Sequence[int], config: TrainingConfig, seeds: Sequence[int], *, size: int | None = None
) -> Batch:
    """Crops of ``size`` images, by default ``batch_size`` of them, chosen by ``seeds`` among ``numbers``.

    Raises:
        ValueError: none of them can be used.
    """
    random = np.random.default_rng(seeds)
    size = config.batch_size if size is None else size
    crops = [_crop(pixels, config, random) for pixels in _drawn(images, numbers, size, random)]
    superpixels = None
    if config.superpixel_scale is not None:
        superpixels = torch.from_numpy(np.stack([_superpixels(crop, config) for crop, _ in crops]))
    planes = [torch.from_numpy(crop).permute(2, 0, 1) for crop, _ in crops]
    if config.network.coordinates:
        planes = [torch.cat([plane, place]) for plane, (_, place) in zip(planes, crops, strict=True)]
    return Batch(torch.stack(planes), superpixels)


def _drawn(images: ImageSet, numbers: Sequence[int], size: int, random: np.random.Generator) -> Iterator[NDArray[Any]]:
    """``size`` images in random order, all of them once before any comes again."""
    while size:
        before = size
        for k in random.permutation(len(numbers)):
            pixels = images.pixels(numbers[k])
            if pixels is not None:
                yield pixels
                size -= 1
                if not size:
                    return
        if size == before:
            raise ValueError("none of the images can be used")


def _crop(
    pixels: NDArray[Any], config: TrainingConfig, random: np.random.Generator
) -> tuple[NDArray[np.float32], Tensor]:
    """``[h, w, bands]`` in 0..1, and its coordinates ``[2, h, w]``; mirrored, each pixel keeps its own."""
    height, width = (max(side, config.crop_size) for side in pixels.shape[:2])
    if (height, width) != pixels.shape[:2]:
        missing = [(0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)]
        pixels = np.pad(pixels, missing, mode="symmetric")
    top, left = (int(random.integers(side - config.crop_size + 1)) for side in (height, width))
    crop = unit_values(pixels[top : top + config.crop_size, left : left + config.crop_size])
    rows, columns = (torch.arange(first, first + config.crop_size) for first in (top, left))
    if config.mirror and random.random() < 0.5:
        crop, columns = np.ascontiguousarray(crop[:, ::-1]), columns.flip(0)
    return crop, coordinates(rows, columns, height, width)


def _superpixels(crop: NDArray[np.float32], config: TrainingConfig) -> NDArray[np.int64]:
    """Of each pixel of the response map, without gaps in their numbers."""
    assert config.superpixel_scale is not None
    numbers = felzenszwalb_superpixels(
        within_0_and_1(crop), scale=config.superpixel_scale, sigma=_SIGMA, min_size=_MIN_SIZE
    )
    stride = config.network.stride
    if stride > 1:
        centres = np.minimum(np.arange(0, config.crop_size, stride) + stride // 2, config.crop_size - 1)
        numbers = numbers[np.ix_(centres, centres)]
    return partition(numbers).part.reshape(numbers.shape)
