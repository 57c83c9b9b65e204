"""Scribbles as a person might draw them, made from an annotation: one stroke in each segment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_dilation, find_objects
from skimage.morphology import skeletonize

from dynamicseg.partition import partition
from dynamicseg.terms import NO_LABEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIDTH = np.ones((3, 3), np.bool_)


def drawn_strokes(segments: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """A stroke three pixels wide for each segment, along a connected half of its skeleton, within the segment.

    Args:
        segments: integers ``[H, W]``.
        seed: decides which half.

    Returns:
        ``[H, W]``: the position of a segment's number among all, -1 where nothing is drawn.
    """
    found = partition(segments)
    numbers = found.part.reshape(segments.shape)
    random = np.random.default_rng(seed)
    strokes = np.full(segments.shape, NO_LABEL, np.int64)
    for label, place in enumerate(find_objects(numbers + 1)):
        inside = numbers[place] == label
        line = np.zeros(inside.shape, np.bool_)
        line[tuple(_half(_skeleton(inside), random).T)] = True
        strokes[place][binary_dilation(line, _WIDTH) & inside] = label
    return strokes


def _skeleton(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """``[n, 2]``, at least one pixel."""
    pixels = np.argwhere(skeletonize(np.pad(inside, 1))[1:-1, 1:-1])
    return pixels if len(pixels) else np.argwhere(inside)[:1]


def _half(pixels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """The half that is met first from a pixel chosen at random, from neighbour to neighbour."""
    numbers = {(row, column): number for number, (row, column) in enumerate(pixels.tolist())}
    wanted = -(-len(pixels) // 2)
    chosen: list[int] = []
    seen: set[int] = set()
    for start in random.permutation(len(pixels)).tolist():  # the first is enough, unless the skeleton falls into parts
        waiting = [] if start in seen else [start]
        seen.add(start)
        for number in waiting:
            chosen.append(number)
            if len(chosen) == wanted:
                return pixels[chosen]
            row, column = pixels[number].tolist()
            around = [(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
            beside = [numbers[place] for place in around if place in numbers and numbers[place] not in seen]
            seen.update(beside)
            waiting += beside
    return pixels[chosen]
