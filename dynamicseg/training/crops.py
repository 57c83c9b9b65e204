"""Random crops of a set of images, of one size, so that they make a batch. The same step has the same crops always."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynamicseg.colours import within_0_and_1
from dynamicseg.features.planes import FeaturePlanes
from dynamicseg.guidance import reduced_scribbles
from dynamicseg.io import unit_values
from dynamicseg.model import coordinates
from dynamicseg.partition import partition
from dynamicseg.superpixels import felzenszwalb_superpixels
from dynamicseg.terms import NO_LABEL
from dynamicseg.training.config import TrainingConfig
from dynamicseg.training.images import ImageSet
from dynamicseg.training.scribbles import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIGMA, _MIN_SIZE = 0.8, 20  # of superpixels, as in the preset fast
# Superpixels of images up to this size are found once, in the whole image; of larger ones anew in each crop.
_WHOLE_PIXELS = 1 << 20


class Batch(NamedTuple):
    """What a training step sees."""

    planes: Tensor
    """``[B, bands, h, w]`` float32, with planes of features and of coordinates more if the network wants them."""
    superpixels: Tensor | None
    """``[B, h / stride, w / stride]`` int64, see ``ops.dynamic_loss``."""
    scribbles: Tensor | None
    """Of the same size, where something is drawn in some image."""


def random_batch(
    images: ImageSet,
    numbers: Sequence[int],
    config: TrainingConfig,
    seeds: Sequence[int],
    *,
    size: int | None = None,
    features: FeaturePlanes | None = None,
) -> Batch:
    """Crops of ``size`` images, by default ``batch_size`` of them, chosen by ``seeds`` among ``numbers``.

    ``features`` are those of the network that is trained.

    Raises:
        ValueError: none of them can be used.
    """
    random = np.random.default_rng(seeds)
    size = config.batch_size if size is None else size
    crops = [
        _crop(images, number, pixels, config, random, features)
        for number, pixels in _drawn(images, numbers, size, random)
    ]
    found = [crop.superpixels for crop in crops if crop.superpixels is not None]
    planes = [torch.from_numpy(crop.values).permute(2, 0, 1) for crop in crops]
    if features is not None:
        planes = [
            torch.cat([plane, torch.from_numpy(crop.features).permute(2, 0, 1)])
            for plane, crop in zip(planes, crops, strict=True)
        ]
    if config.network.coordinates:
        planes = [torch.cat([plane, crop.place]) for plane, crop in zip(planes, crops, strict=True)]
    strokes = [crop.scribbles for crop in crops if crop.scribbles is not None]
    return Batch(torch.stack(planes), _stacked(found), _stacked(strokes))


def _stacked(maps: Sequence[NDArray[np.int64]]) -> Tensor | None:
    return torch.from_numpy(np.stack(maps)) if maps else None


class _Crop(NamedTuple):
    values: NDArray[np.float32]  # [h, w, bands]
    features: NDArray[np.float32]  # [h, w, planes]
    place: Tensor  # [2, h, w], coordinates
    superpixels: NDArray[np.int64] | None  # [h / stride, w / stride]
    scribbles: NDArray[np.int64] | None  # the same


def _drawn(
    images: ImageSet, numbers: Sequence[int], size: int, random: np.random.Generator
) -> Iterator[tuple[int, NDArray[Any]]]:
    """``size`` images and their numbers, in random order, all of them once before any comes again."""
    while size:
        before = size
        for k in random.permutation(len(numbers)):
            pixels = images.pixels(numbers[k])
            if pixels is not None:
                yield numbers[k], pixels
                size -= 1
                if not size:
                    return
        if size == before:
            raise ValueError("none of the images can be used")


def _crop(
    images: ImageSet,
    number: int,
    pixels: NDArray[Any],
    config: TrainingConfig,
    random: np.random.Generator,
    features: FeaturePlanes | None,
) -> _Crop:
    """A part of an image at a random place; mirrored, each pixel keeps its coordinates."""
    height, width = (max(side, config.crop_size) for side in pixels.shape[:2])
    top, left = (int(random.integers(side - config.crop_size + 1)) for side in (height, width))
    mirrored = config.mirror and random.random() < 0.5

    part = slice(top, top + config.crop_size), slice(left, left + config.crop_size)

    def turned(crop: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(crop[:, ::-1] if mirrored else crop)

    def cut(array: NDArray[Any]) -> NDArray[Any]:
        return turned(_padded(array, height, width)[part])

    values = unit_values(cut(pixels))
    of_features = values[..., :0]
    if features is not None:
        if pixels.shape[:2] == (height, width):
            of_features = turned(features.of_image(pixels, part).permute(1, 2, 0).cpu().numpy())
        else:
            of_features = cut(features.of_image(pixels).permute(1, 2, 0).cpu().numpy())
    rows, columns = (torch.arange(first, first + config.crop_size) for first in (top, left))
    place = coordinates(rows, columns.flip(0) if mirrored else columns, height, width)
    scribbles = None
    if images.strokes:
        strokes = images.strokes.get(number)
        size = (-(-config.crop_size // config.network.stride),) * 2
        scribbles = np.full(size, NO_LABEL, np.int64) if strokes is None else reduced_scribbles(cut(strokes), size)
    if config.superpixel_scale == 0:
        return _Crop(values, of_features, place, None, scribbles)
    if pixels.shape[0] * pixels.shape[1] <= _WHOLE_PIXELS:
        of_image = images.derived(number, lambda: _superpixels(unit_values(pixels), config).astype(np.int32))
        superpixels = cut(of_image)
    else:
        superpixels = _superpixels(values, config)
    superpixels = _of_response(superpixels, config.network.stride)
    if scribbles is not None:
        scribbles = spread(scribbles, superpixels)
    return _Crop(values, of_features, place, superpixels, scribbles)


def _padded(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """At least of this size, mirrored below and to the right."""
    if array.shape[:2] == (height, width):
        return array
    missing = [(0, height - array.shape[0]), (0, width - array.shape[1]), *[(0, 0)] * (array.ndim - 2)]
    return np.pad(array, missing, mode="symmetric")


def _superpixels(values: NDArray[np.float32], config: TrainingConfig) -> NDArray[np.int64]:
    return felzenszwalb_superpixels(
        within_0_and_1(values), scale=config.superpixel_scale, sigma=_SIGMA, min_size=_MIN_SIZE
    )


def _of_response(superpixels: NDArray[Any], stride: int) -> NDArray[np.int64]:
    """``[h, w]`` at the size of the response map, without gaps in their numbers."""
    if stride > 1:
        centres = [np.minimum(np.arange(0, side, stride) + stride // 2, side - 1) for side in superpixels.shape]
        superpixels = superpixels[np.ix_(*centres)]
    return partition(superpixels).part.reshape(superpixels.shape)
