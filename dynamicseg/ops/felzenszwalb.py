"""Graph-based segmentation at several scales at once, on the native core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dynamicseg import _native
from dynamicseg.ops._runtime import lend_threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIXELS_OF_NARROW_EDGES = 2**30
"""Up to so many, the numbers of all edges fit into 32 bits."""


class Scale(NamedTuple):
    """What decides the size of segments.

    Attributes:
        scale: >= 0, larger gives larger segments; 255 is the range of values 0..1.
        min_size: >= 0, the least area of a segment in pixels. An image with fewer is one segment.
    """

    scale: float
    min_size: int


def felzenszwalb(image: NDArray[Any], scales: Sequence[Scale], *, sigma: float) -> NDArray[np.int64]:
    """Segments ``image`` at each of ``scales``: Felzenszwalb and Huttenlocher, IJCV 2004.

    The image is smoothed, and each pixel joined to its eight neighbours by edges that weigh the Euclidean distance of
    the two pixels' values, in float32. In ascending order of weight, an edge unites two segments if it weighs less than
    ``threshold = w + scale / 255 / area`` of both, ``w`` being the weight of the edge that united a segment last, 0 for
    one pixel. Then, in the same order, edges unite segments of which one is smaller than ``min_size``. Edges of the
    same weight go in the order of their first pixel, row by row, and of one pixel in the order right, below left,
    below, below right. The result is the same for any number of threads.

    It is the arithmetic of scikit-image, where the order of edges of the same weight is left open.

    Args:
        image: ``[H, W, C]``, any C, floating point, finite; used in float32.
        scales: one or more.
        sigma: width of the Gaussian that smooths the image, in pixels, >= 0.

    Returns:
        ``[len(scales), H, W]``: of each scale, numbers from 0 without gaps in the order of their first pixels.

    Raises:
        TypeError, ValueError: the image or an argument is none of these.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"image has shape {image.shape}: pass [H, W, C] with at least one value")
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"image is {image.dtype}: pass floating point values, about 0..1")
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"sigma wants a finite number, at least 0, not {sigma!r}")
    if not scales:
        raise ValueError("no scales are given: pass at least one")
    for scale, min_size in scales:
        if not (math.isfinite(scale) and scale >= 0):
            raise ValueError(f"scale wants a finite number, at least 0, not {scale!r}")
        if isinstance(min_size, bool) or not isinstance(min_size, (int, np.integer)) or min_size < 0:
            raise ValueError(f"min_size wants a whole number, at least 0, not {min_size!r}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        values = image.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise ValueError("image holds NaN or infinite values: replace them, or leave these pixels out")
    if sigma > 0:
        from scipy.ndimage import gaussian_filter

        values = gaussian_filter(values, (sigma, sigma, 0))
    values = np.ascontiguousarray(values)
    height, width = values.shape[:2]
    segments = np.empty((len(scales), height, width), np.int64)
    lend_threads()
    _native.felzenszwalb(
        image=values.ctypes.data,
        shape=values.shape,
        scales=[scale / 255 for scale, _ in scales],
        min_sizes=[min(min_size, values.size) for _, min_size in scales],
        wide_edges=height * width > _PIXELS_OF_NARROW_EDGES,
        segments=segments.ctypes.data,
    )
    return segments
