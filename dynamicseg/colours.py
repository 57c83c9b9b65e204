"""Colours whose distances mean something, for images of any number of bands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLACK_TO_WHITE = 100.0
"""Distance of the two in the space of ``colours``, as in CIE Lab."""


def within_0_and_1(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """``values`` as they are, unless one is below 0 or above 1: then shifted and scaled to 0..1, all bands alike."""
    smallest, largest = float(values.min()), float(values.max())
    if smallest >= 0 and largest <= 1:
        return values
    # In float64, where the difference of any two numbers of float32 is finite; band by band, for it takes memory.
    extent = (largest - smallest) or 1.0
    result = np.empty_like(values)
    for band in range(values.shape[2]):
        result[..., band] = (values[..., band].astype(np.float64) - smallest) / extent
    return result


def colours(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[H, W, C]`` of any C, in 0..1, to ``[H, W, D]``: CIE Lab of one band (grey) or three (RGB), else bands, scaled.

    Whatever C, black and white are ``BLACK_TO_WHITE`` apart.
    """
    bands = values.shape[2]
    if bands not in (1, 3):
        scaled: NDArray[np.float32] = values * np.float32(BLACK_TO_WHITE / np.sqrt(bands))
        return scaled
    from skimage.color import rgb2lab

    lab: NDArray[np.float32] = rgb2lab(np.broadcast_to(values, (*values.shape[:2], 3))).astype(np.float32)
    return lab
