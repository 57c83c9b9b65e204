"""Pictures of a label map over its image. Needs NumPy and Pillow alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg.io import display_rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DIM = 0.25  # of the brightness of pixels without data, in an overlay


def overlay(
    labels: NDArray[np.int32], image: NDArray[Any], palette: NDArray[np.uint8], alpha: float
) -> NDArray[np.uint8]:
    """The colours of the labels over the image, with boundaries, uint8 ``[H, W, 3]``; see ``LabelledImage.overlay``.

    Args:
        labels: ``[H, W]``, -1 where there is no data.
        image: ``[H, W, C]``.
        palette: uint8 ``[n_labels, 3]``.
        alpha: 0 to 1.

    Raises:
        ValueError: alpha is not in 0 to 1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}; want 0 to 1")
    colours = palette.astype(np.float32) * np.float32(alpha)
    shown = display_rgb(image)
    blended = shown * np.float32(1.0 - alpha) + colours[labels]
    no_data = labels < 0
    blended[no_data] = shown[no_data] * np.float32(_DIM)
    result: NDArray[np.uint8] = np.rint(blended).astype(np.uint8)
    light, dark = edge_sides(labels)
    result[dark] = 0
    result[light] = 255
    return result


def edge_sides(
    labels: NDArray[np.int32],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the two sides of all edges, bool ``[H, W]`` each: at the higher label, at the lower."""
    higher = np.zeros(labels.shape, np.bool_)
    lower = np.zeros(labels.shape, np.bool_)
    for first, second in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        rising = labels[first] < labels[second]
        falling = labels[first] > labels[second]
        lower[first] |= rising
        higher[second] |= rising
        higher[first] |= falling
        lower[second] |= falling
    return higher, lower


def size_of_at_most(shape: tuple[int, ...], pixels: int) -> tuple[int, int]:
    """Height and width in the proportion of ``shape``, with at most so many pixels; of a small image its own."""
    height, width = shape[:2]
    scale = min(1.0, math.sqrt(pixels / (height * width)))
    # A side is never less than 1, and then the other may not be all that is left.
    height, width = max(1, int(height * scale)), max(1, int(width * scale))
    height = min(height, max(1, pixels // width))
    return height, min(width, pixels // height)


def resized_image(image: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """What a person should see of ``[H, W, C]``, at ``size`` (height, width), uint8 ``[h, w, 3]``."""
    from PIL import Image

    shown = display_rgb(image)
    if shown.shape[:2] == size:
        return shown
    return np.asarray(Image.fromarray(shown).resize(size[::-1], Image.Resampling.BOX))
