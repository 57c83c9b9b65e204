"""Colours whose distances mean something, for images of any number of bands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLACK_TO_WHITE = 100.0
"""Distance of the two in the space of ``colours``, as in CIE Lab."""


def colours(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[H, W, C]`` of any C to ``[H, W, D]``: CIE Lab of one band (grey) or three (RGB), else the bands, scaled.

    Values below 0 or above 1 bring the whole image into 0..1 first, all bands alike.
    """
    smallest, largest = float(values.min()), float(values.max())
    if smallest < 0 or largest > 1:
        values = (values - smallest) / max(largest - smallest, np.finfo(np.float32).tiny)
    bands = values.shape[2]
    if bands not in (1, 3):
        scaled: NDArray[np.float32] = values * np.float32(BLACK_TO_WHITE / np.sqrt(bands))
        return scaled
    from skimage.color import rgb2lab

    lab: NDArray[np.float32] = rgb2lab(np.broadcast_to(values, (*values.shape[:2], 3))).astype(np.float32)
    return lab
