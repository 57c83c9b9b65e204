"""A tree of regions: superpixels, and what comes of merging the most similar neighbours until nothing is left to merge.

Its nodes are the regions that a segmentation may be put together from: small ones beside large ones, each pixel in just
one of them. Which of them to take is the business of ``consensus``.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Square of the colour gradient along a border, against the square of the distance of the mean colours on its two sides.
# Tuned on BSDS500 train, where a third and three times as much score alike.
_GRADIENT_WEIGHT = 15.0
_GRADIENT_SIGMA = 1.0

# Of each neighbour: length of the common border, and the sum of the gradient along it.
_Neighbours: TypeAlias = dict[int, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class RegionTree:
    """Nodes 0 to ``leaves`` - 1 are superpixels; node ``leaves + i`` is the union of the two of ``children[i]``.

    Attributes:
        superpixels: ``[H, W]`` int64, the leaf of each pixel.
        leaves: how many there are.
        children: ``[nodes - leaves, 2]`` int64, in the order of merging, the most similar first.
    """

    superpixels: NDArray[np.int64]
    leaves: int
    children: NDArray[np.int64]

    def areas(self) -> NDArray[np.int64]:
        """Pixels of each node."""
        areas = np.empty(self.leaves + len(self.children), np.int64)
        areas[: self.leaves] = np.bincount(self.superpixels.ravel(), minlength=self.leaves)
        for node, (first, second) in enumerate(self.children, self.leaves):
            areas[node] = areas[first] + areas[second]
        return areas

    def roots(self) -> NDArray[np.int64]:
        """Nodes that are part of no other: one, unless the superpixels do not all touch."""
        return np.setdiff1d(np.arange(self.leaves + len(self.children)), self.children)

    def region_map(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """``[H, W]``: for each pixel, which of ``nodes`` it lies in, as a position; they must cover every leaf once."""
        position = np.full(self.leaves + len(self.children), -1, np.int64)
        position[nodes] = np.arange(len(nodes))
        for node in range(len(position) - 1, self.leaves - 1, -1):
            if position[node] >= 0:
                position[self.children[node - self.leaves]] = position[node]
        return position[self.superpixels]


def merge_neighbours(superpixels: NDArray[np.int64], colours: NDArray[np.float32]) -> RegionTree:
    """Merges the two most similar neighbours again and again, until there are no neighbours.

    The dissimilarity of two regions is the squared distance of their mean colours, plus a constant times the square of
    the mean colour gradient along their common border. So a smooth slope is no border, and two sides of an edge stay
    apart even where their means are alike.

    Args:
        superpixels: ``[H, W]``, numbers from 0 without gaps.
        colours: ``[H, W, D]``, see ``colours.colours``.
    """
    leaves = int(superpixels.max()) + 1
    areas = [float(area) for area in np.bincount(superpixels.ravel(), minlength=leaves)]
    means = list(_mean_colours(superpixels, colours, leaves))
    neighbours = _borders(superpixels, _gradient(colours), leaves)

    def dissimilarity(first: int, second: int) -> float:
        length, gradient = neighbours[first][second]
        difference = means[first] - means[second]
        return float(difference @ difference) + _GRADIENT_WEIGHT * (gradient / length) ** 2

    queue = [
        (dissimilarity(first, second), first, second)
        for first in range(leaves)
        for second in neighbours[first]
        if first < second
    ]
    heapq.heapify(queue)
    children: list[tuple[int, int]] = []
    while queue:
        _, first, second = heapq.heappop(queue)
        if not (neighbours[first] and neighbours[second]):  # one of them is part of another region by now
            continue
        merged = len(neighbours)
        areas.append(areas[first] + areas[second])
        means.append((areas[first] * means[first] + areas[second] * means[second]) / areas[merged])
        _join(neighbours, first, second)
        children.append((first, second))
        for other in neighbours[merged]:
            heapq.heappush(queue, (dissimilarity(merged, other), other, merged))
    return RegionTree(superpixels, leaves, np.array(children, np.int64).reshape(-1, 2))


def _join(neighbours: list[_Neighbours], first: int, second: int) -> None:
    """Appends the neighbours of the union of two regions, and takes the two out."""
    merged: _Neighbours = {}
    for part in (first, second):
        for other, (length, gradient) in neighbours[part].items():
            if other not in (first, second):
                so_far = merged.get(other, (0.0, 0.0))
                merged[other] = (so_far[0] + length, so_far[1] + gradient)
                del neighbours[other][part]
    for other, border in merged.items():
        neighbours[other][len(neighbours)] = border
    neighbours[first], neighbours[second] = {}, {}
    neighbours.append(merged)


def _mean_colours(superpixels: NDArray[np.int64], colours: NDArray[np.float32], leaves: int) -> NDArray[np.float64]:
    numbers = superpixels.ravel()
    sums = [np.bincount(numbers, colours[..., d].ravel(), leaves) for d in range(colours.shape[2])]
    means: NDArray[np.float64] = np.stack(sums, axis=1) / np.bincount(numbers, minlength=leaves)[:, None]
    return means


def _gradient(colours: NDArray[np.float32]) -> NDArray[np.float64]:
    """``[H, W]``: length of the colour gradient of the smoothed image, over all components, in units a pixel."""
    smooth = gaussian_filter(colours.astype(np.float64), (_GRADIENT_SIGMA, _GRADIENT_SIGMA, 0))
    squares = np.zeros(colours.shape[:2])
    for axis in (0, 1):
        if colours.shape[axis] > 1:
            squares += np.square(np.gradient(smooth, axis=axis)).sum(axis=2)
    lengths: NDArray[np.float64] = np.sqrt(squares)
    return lengths


def _borders(superpixels: NDArray[np.int64], gradient: NDArray[np.float64], leaves: int) -> list[_Neighbours]:
    """The neighbours of each superpixel: those that share a side of a pixel with it."""
    keys, strengths = [], []
    for here, there in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        differ = superpixels[here] != superpixels[there]
        low = np.minimum(superpixels[here], superpixels[there])[differ]
        high = np.maximum(superpixels[here], superpixels[there])[differ]
        keys.append(low * leaves + high)
        strengths.append((gradient[here] + gradient[there])[differ] / 2)
    pairs, pair_of = np.unique(np.concatenate(keys), return_inverse=True)
    lengths = np.bincount(pair_of, minlength=len(pairs))
    sums = np.bincount(pair_of, np.concatenate(strengths), len(pairs))
    neighbours: list[_Neighbours] = [{} for _ in range(leaves)]
    for pair, length, total in zip(pairs.tolist(), lengths.tolist(), sums.tolist(), strict=True):
        first, second = divmod(pair, leaves)
        neighbours[first][second] = neighbours[second][first] = (float(length), total)
    return neighbours
