"""Numbers of labels drawn into an overlay, each where its label has most room. Needs NumPy and Pillow alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import ImageFont

_LONGEST_SIDE = 512
"""Where there is room is found at about this size: in time that does not depend on that of the image."""


def draw_numbers(picture: NDArray[np.uint8], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Each label's number, white with a black border, where the largest square of that label lies.

    Labels with no square of a third of the height of the digits stay without: nobody would see what is numbered.

    Args:
        picture: uint8 ``[H, W, 3]``.
        labels: int32 ``[H, W]``, at least 0.

    Returns:
        uint8 ``[H, W, 3]``, another array.
    """
    from PIL import Image, ImageDraw

    height = max(11, round(max(labels.shape) / 34))  # of digits in pixels: 14 in a photo of 321x481
    drawn = Image.fromarray(picture)
    draw = ImageDraw.Draw(drawn)
    font, border = font_of_height(height), max(1, height // 8)
    step = max(1, -(-max(labels.shape) // _LONGEST_SIDE))
    sample = labels[::step, ::step]
    for label in np.flatnonzero(np.bincount(sample.ravel())):
        row, column, side = roomiest(sample == label)
        if 3 * side * step >= height:
            text = str(label)
            left, top, right, bottom = draw.textbbox((0, 0), text, font=font, stroke_width=border)
            # The middle of the digits over that of the square, but inside of the picture.
            x = min(max(0, (column + side / 2) * step - (right - left) / 2), drawn.width - (right - left))
            y = min(max(0, (row + side / 2) * step - (bottom - top) / 2), drawn.height - (bottom - top))
            place = (round(x - left), round(y - top))
            draw.text(place, text, fill="white", font=font, stroke_width=border, stroke_fill="black")
    return np.array(drawn)


def roomiest(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """The largest square that is all inside of ``mask``: its first row, first column and side; of several, the first.

    Args:
        mask: bool ``[H, W]`` with at least one pixel.
    """
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(mask, axis=0), axis=1, out=sums[1:, 1:])

    def squares(side: int) -> NDArray[np.bool_]:
        inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
        return np.asarray(inside == side * side)

    fits, too_large = 1, min(mask.shape) + 1
    while too_large - fits > 1:  # where a square lies, a smaller one lies as well
        middle = (fits + too_large) // 2
        fits, too_large = (middle, too_large) if squares(middle).any() else (fits, middle)
    row, column = np.argwhere(squares(fits))[0]
    return int(row), int(column), fits


def font_of_height(height: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """The font that Pillow carries."""
    from PIL import ImageFont

    try:
        return ImageFont.load_default(height)
    except ImportError:  # a Pillow without FreeType has one small font
        return ImageFont.load_default()
