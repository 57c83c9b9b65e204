"""Superpixels: small regions of similar colour, within which labels are kept consistent; and coarser regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dynamicseg.colours import BLACK_TO_WHITE
from dynamicseg.ops.felzenszwalb import Scale, felzenszwalb
from dynamicseg.partition import connected_components, partition

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Scales of the coarser segmentations, by what they are of. Each covers what the next human annotator of BSDS500 train
# may mean by a region; more of them score no better there.
_SCALES_OF_VALUES, _SIGMA_OF_VALUES = (200.0, 400.0, 800.0), 1.5
_SCALES_OF_COLOURS, _SIGMA_OF_COLOURS = (50.0, 100.0, 200.0), 1.2
_MIN_SIZE = 50


def felzenszwalb_superpixels(
    values: NDArray[np.float32], *, scale: float, sigma: float, min_size: int
) -> NDArray[np.int64]:
    """Superpixels by the graph-based method of Felzenszwalb and Huttenlocher, see ``ops.felzenszwalb``.

    Args:
        values: ``[H, W, C]``, about 0..1, any C.
        scale: larger gives larger superpixels.
        sigma: width of the Gaussian that smooths the image first, in pixels.
        min_size: the least area of a superpixel, in pixels.

    Returns:
        ``[H, W]`` numbers from 0 without gaps.
    """
    superpixels: NDArray[np.int64] = felzenszwalb(values, [Scale(scale, min_size)], sigma=sigma)[0]
    return superpixels


def split_by_guide(superpixels: NDArray[np.int64], guide: NDArray[np.int64], *, min_size: int) -> NDArray[np.int64]:
    """``superpixels`` cut along the borders of a guide's regions, so that regions of either can be put together.

    Args:
        superpixels: ``[H, W]`` numbers from 0 without gaps.
        guide: ``[H, W]`` labels, negative where there is none.
        min_size: pieces with fewer pixels stay with the largest piece of their superpixel: a guide that is noise cuts
            nothing.

    Returns:
        ``[H, W]`` numbers from 0 without gaps.
    """
    regions = connected_components(guide)
    pieces = partition(superpixels.ravel() * (int(regions.max()) + 1) + regions.ravel())
    superpixel_of = pieces.numbers // (int(regions.max()) + 1)
    largest = np.empty(int(superpixels.max()) + 1, np.int64)
    by_area = np.argsort(pieces.areas, kind="stable")
    largest[superpixel_of[by_area]] = by_area  # the last one stays
    kept = np.where(pieces.areas < min_size, largest[superpixel_of], np.arange(len(pieces)))
    return partition(kept[pieces.part]).part.reshape(superpixels.shape)


def coarser_segmentations(values: NDArray[np.float32], colours: NDArray[np.float32]) -> list[NDArray[np.int64]]:
    """The same method at several scales, on the image as it is and on its colours: views for ``consensus``.

    Args:
        values: ``[H, W, C]``, about 0..1, any C.
        colours: ``[H, W, D]``, see ``colours.colours``.

    Returns:
        Of each, ``[H, W]`` numbers from 0 without gaps.
    """
    unit_colours = colours / np.float32(BLACK_TO_WHITE)
    return [
        segmentation
        for image, scales, sigma in (
            (values, _SCALES_OF_VALUES, _SIGMA_OF_VALUES),
            (unit_colours, _SCALES_OF_COLOURS, _SIGMA_OF_COLOURS),
        )
        for segmentation in felzenszwalb(image, [Scale(scale, _MIN_SIZE) for scale in scales], sigma=sigma)
    ]
