"""Label maps as partitions of their pixels: parts without gaps in their numbers, and connected parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DENSE_CELLS_PER_PIXEL = 4
"""Up to so many numbers for each pixel, counting all of them is quicker than sorting."""


@dataclass(frozen=True, eq=False)
class Partition:
    """N pixels divided among parts; a part has at least one pixel.

    Attributes:
        numbers: int64 ``[parts]``, ascending: the label that each part has in its map.
        part: int64 ``[N]``: the part of each pixel, 0 to parts - 1.
        areas: int64 ``[parts]``, in pixels.
    """

    numbers: NDArray[np.int64]
    part: NDArray[np.int64]
    areas: NDArray[np.int64]

    def __len__(self) -> int:
        """How many parts there are."""
        return len(self.numbers)


def partition(labels: NDArray[Any]) -> Partition:
    """The parts of integers of any shape; pixels with the same number are one part."""
    flat = labels.ravel()
    smallest = int(flat.min()) if flat.size else 0
    if flat.size == 0 or int(flat.max()) - smallest > DENSE_CELLS_PER_PIXEL * flat.size + 1024:
        numbers, part, areas = np.unique(flat, return_inverse=True, return_counts=True)
        return Partition(numbers.astype(np.int64), part.astype(np.int64), areas.astype(np.int64))
    # Counting is far quicker than the sort inside numpy.unique, where the numbers are dense enough.
    # In 64 bits the subtraction may wrap around for uint64, and still leaves the right difference.
    first = np.array(smallest, flat.dtype).astype(np.int64)
    from_first = flat.astype(np.int64) - first
    counts = np.bincount(from_first)
    present = np.flatnonzero(counts)
    number = np.zeros(len(counts), np.int64)
    number[present] = np.arange(len(present))
    return Partition(present.astype(np.int64) + first, number[from_first], counts[present].astype(np.int64))


def connected_components(labels: NDArray[Any]) -> NDArray[np.int64]:
    """The 4-connected components of all labels, int64 ``[H, W]``, numbered from 0; every label counts, 0 too."""
    from skimage.measure import label

    # scikit-image leaves the background out: a number that no label has.
    smallest = int(labels.min()) if labels.size else 0
    shifted = labels.astype(np.int64) - smallest
    return np.asarray(label(shifted, connectivity=1, background=-1), np.int64) - 1
