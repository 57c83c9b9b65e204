"""Real images to measure ranges and compare labels on, as models take them: uint8 ``[H, W, bands]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynamicseg._files import one_line
from dynamicseg._words import counted
from dynamicseg.inputs import find_images
from dynamicseg.io import read_image
from dynamicseg.predict import model_input

MAX_IMAGES = 16
MAX_SIDE = 640
"""Larger images are cut to their middle: enough pixels to compare, and bounded memory."""

_PHOTOS = ("astronaut", "coffee", "chelsea")
_CROPS = ((1, 1), (37, 53))
"""A graph of any size is also run on these, where borders are all there is and nothing is even."""


@dataclass(frozen=True)
class ImageSet:
    """Images, and where they are from.

    Attributes:
        images: uint8 ``[H, W, bands]`` each.
        source: in words.
    """

    images: tuple[NDArray[np.uint8], ...]
    source: str


def images_in(folder: Path, bands: int, size: tuple[int, int] | None) -> ImageSet:
    """Up to ``MAX_IMAGES`` images of a folder, evenly spread over their names.

    Args:
        folder: searched with its subfolders.
        bands: that each must have.
        size: height and width to cut them to, or to enlarge them to; None: as they are, up to ``MAX_SIDE``.

    Raises:
        ValueError, OSError: the folder has no images, or one of them cannot be read or has other bands; in one line.
    """
    if not folder.is_dir():
        raise ValueError(one_line(folder, "is no folder; name one that holds images"))
    found = find_images([str(folder)])
    if not found.images:
        raise ValueError(found.problems[0])
    spread = np.linspace(0, len(found.images) - 1, min(MAX_IMAGES, len(found.images)))
    images = []
    for index in sorted({round(at) for at in spread}):
        path = found.images[index].path
        pixels = read_image(path)
        try:
            image = model_input(pixels, bands)
        except ValueError as error:
            raise ValueError(one_line(path, f"{error}; name a folder of such images")) from None
        images.append(_of_size(image, size))
    return ImageSet(
        tuple(images), f"{len(images)} of {counted(len(found.images), 'image')} in the folder {folder.name}"
    )


def photos_at_hand(bands: int, size: tuple[int, int] | None) -> ImageSet:
    """Photos that scikit-image carries, their colours repeated or averaged to the wanted number of bands."""
    import skimage.data

    images = []
    for name in _PHOTOS:
        photo: NDArray[np.uint8] = getattr(skimage.data, name)()
        if bands < 3:
            planes = [photo.mean(axis=2).astype(np.uint8)] * bands
        else:
            # A turned photo has the texture of a photo and is no copy of the band three before.
            planes = [
                np.flip(photo[..., band % 3], axis=band // 3 % 2) if band > 2 else photo[..., band]
                for band in range(bands)
            ]
        images.append(_of_size(np.stack(planes, axis=-1), size))
    return ImageSet(tuple(images), f"{len(images)} photos that scikit-image carries")


def with_odd_sizes(images: ImageSet) -> tuple[NDArray[np.uint8], ...]:
    """The images and small pieces of the first one, of sizes that a graph of any size must take as well."""
    first = images.images[0]
    return (*images.images, *(np.ascontiguousarray(first[:height, :width]) for height, width in _CROPS))


def _of_size(image: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The middle of an image; what is too small for ``size`` goes on as in a mirror."""
    wanted: Sequence[int] = size or [min(side, MAX_SIDE) for side in image.shape[:2]]
    missing = [max(0, want - side) for want, side in zip(wanted, image.shape[:2], strict=True)]
    image = np.pad(image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    top, left = ((side - want) // 2 for want, side in zip(wanted, image.shape[:2], strict=True))
    return np.ascontiguousarray(image[top : top + wanted[0], left : left + wanted[1]])
