"""Superpixels: small regions of similar colour, within which labels are kept consistent."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def felzenszwalb_superpixels(
    values: NDArray[np.float32], *, scale: float, sigma: float, min_size: int
) -> NDArray[np.int64]:
    """Superpixels by the graph-based method of Felzenszwalb and Huttenlocher (IJCV 2004), as scikit-image has it.

    Args:
        values: ``[H, W, C]``, about 0..1, any C.
        scale: larger gives larger superpixels.
        sigma: width of the Gaussian that smooths the image first, in pixels.
        min_size: the least area of a superpixel, in pixels.

    Returns:
        ``[H, W]`` numbers from 0 without gaps.
    """
    from skimage.segmentation import felzenszwalb

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got image with third dimension")  # more than three bands are meant
        numbers: NDArray[Any] = felzenszwalb(values, scale=scale, sigma=sigma, min_size=min_size, channel_axis=-1)
    return numbers.astype(np.int64)
