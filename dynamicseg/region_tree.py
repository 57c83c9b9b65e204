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
# Square of the distance of mean features, whose mean square over the image is 1, against that of the mean colours.
_FEATURE_WEIGHT = 500.0
# Regions that features alone divide an image into, see ``divided_by_features``.
_COUNTS_BY_FEATURES = (5, 15, 40)

# Of each neighbour: length of the common border, and the sum of the gradient along it.
_Neighbours: TypeAlias = dict[int, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class RegionTree:
    """Nodes 0 to ``leaves`` - 1 are superpixels; node ``leaves + i`` is the union of the two of ``children[i]``.

    Attributes:
        superpixels: ``[H, W]`` int64, the leaf of each pixel.
        leaves: how many there are.
        children: ``[leaves - 1, 2]`` int64, in the order of merging, the most similar first. The last node is the whole
            image: on a grid no superpixel is without neighbours.
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

    def region_map(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """``[H, W]``: for each pixel, which of ``nodes`` it lies in, as a position; they must cover every leaf once."""
        position = np.full(self.leaves + len(self.children), -1, np.int64)
        position[nodes] = np.arange(len(nodes))
        for node in range(len(position) - 1, self.leaves - 1, -1):
            if position[node] >= 0:
                position[self.children[node - self.leaves]] = position[node]
        return position[self.superpixels]


def merge_neighbours(
    superpixels: NDArray[np.int64], colours: NDArray[np.float32], features: NDArray[np.float64] | None = None
) -> RegionTree:
    """Merges the two most similar neighbours again and again, until one region is left.

    The dissimilarity of two regions is the squared distance of their mean colours, plus a constant times the square of
    the mean colour gradient along their common border. So a smooth slope is no border, and two sides of an edge stay
    apart even where their means are alike. With features, a constant times the squared distance of their means is
    added, so that parts of one thing come together before two things of one colour do. Of equally similar pairs the one
    with the lowest node goes first.

    Args:
        superpixels: ``[H, W]``, numbers from 0 without gaps.
        colours: ``[H, W, D]``, see ``colours.colours``.
        features: of each superpixel, ``[n, F]``, see ``features.pooling.pooled``.
    """
    leaves = int(superpixels.max()) + 1
    means = _mean_colours(superpixels, colours, leaves)
    if features is not None:
        means = np.concatenate([means, np.sqrt(_FEATURE_WEIGHT) * features], axis=1)
    children = _merged(_Regions(superpixels, means, _gradient(colours), 0.0))
    return RegionTree(superpixels, leaves, children)


def divided_by_features(superpixels: NDArray[np.int64], features: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Coarse segmentations by features alone: views for ``consensus``.

    Neighbours are merged as in ``merge_neighbours``, but the squared distance of their mean features counts times the
    square root of the smaller area: so no small region with features of its own is left over for the end.

    Args:
        superpixels: see ``merge_neighbours``.
        features: see ``merge_neighbours``.

    Returns:
        Of each, ``[H, W]`` numbers from 0 without gaps.
    """
    leaves = len(features)
    children = _merged(_Regions(superpixels, features, np.zeros(superpixels.shape), 0.5))
    tree = RegionTree(superpixels, leaves, children)
    return [tree.region_map(_after_merges(tree, max(0, leaves - count))) for count in _COUNTS_BY_FEATURES]


def _after_merges(tree: RegionTree, merges: int) -> NDArray[np.int64]:
    """The nodes that are there after so many merges."""
    nodes = np.arange(tree.leaves + merges)
    return nodes[~np.isin(nodes, tree.children[:merges])]


def _merged(regions: _Regions) -> NDArray[np.int64]:
    """``[leaves - 1, 2]``, see ``RegionTree``."""
    # All pairs of superpixels; of a union only the nearest neighbour at a time, or a background that touches all else
    # would fill the memory.
    queue = []
    for leaf in range(regions.leaves):
        values, others = regions.dissimilarities(leaf)
        pairs = zip(values.tolist(), others.tolist(), strict=True)
        queue += [(value, other, leaf) for value, other in pairs if other < leaf]
    heapq.heapify(queue)
    of_union: dict[int, tuple[NDArray[np.float64], NDArray[np.int64]]] = {}

    def offer(union: int) -> None:
        """Queues the nearest of the neighbours that it had from the beginning, of those that are left."""
        values, others = of_union[union]
        left = regions.alive[others]
        of_union[union] = values, others = values[left], others[left]
        if len(values):
            smallest = values.min()
            heapq.heappush(queue, (float(smallest), int(others[values == smallest].min()), union))

    children: list[tuple[int, int]] = []
    while queue:
        _, first, second = heapq.heappop(queue)
        if regions.alive[first] and regions.alive[second]:
            children.append((first, second))
            union = regions.unite(first, second)
            of_union.pop(first, None)
            of_union.pop(second, None)
            of_union[union] = regions.dissimilarities(union)
            offer(union)
        elif second in of_union:
            offer(second)
    return np.array(children, np.int64).reshape(-1, 2)


class _Regions:
    """What is not yet merged, by node.

    Each region has a place, at first the number of its superpixel. The union of two takes the place of the one with
    more neighbours, for which less is to be changed: beside a background that touches all else, nearly nothing.
    """

    def __init__(
        self,
        superpixels: NDArray[np.int64],
        means: NDArray[np.float64],
        gradient: NDArray[np.float64],
        area_exponent: float,
    ) -> None:
        self._area_exponent = area_exponent
        self.leaves = int(superpixels.max()) + 1
        self.alive = np.arange(2 * self.leaves - 1) < self.leaves
        self._place_of = list(range(self.leaves))
        # By place.
        self._node_of = np.arange(self.leaves)
        self._areas = np.bincount(superpixels.ravel(), minlength=self.leaves).astype(np.float64)
        self._means = means.copy()
        self._neighbours = _borders(superpixels, gradient, self.leaves)

    def dissimilarities(self, node: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """To each of its neighbours, and their nodes."""
        place = self._place_of[node]
        neighbours = self._neighbours[place]
        others = np.fromiter(neighbours, np.int64, len(neighbours))
        borders = np.array(list(neighbours.values())).reshape(-1, 2)
        differences = self._means[others] - self._means[place]
        gradients = borders[:, 1] / borders[:, 0]
        values = np.square(differences).sum(axis=1) + _GRADIENT_WEIGHT * np.square(gradients)
        if self._area_exponent:
            values *= np.minimum(self._areas[others], self._areas[place]) ** self._area_exponent
        return values, self._node_of[others]

    def unite(self, first: int, second: int) -> int:
        """The node of their union."""
        kept, gone = self._place_of[first], self._place_of[second]
        if len(self._neighbours[kept]) < len(self._neighbours[gone]):
            kept, gone = gone, kept
        areas, means = self._areas, self._means
        area = areas[kept] + areas[gone]
        means[kept] = (areas[kept] * means[kept] + areas[gone] * means[gone]) / area
        areas[kept] = area
        self._hand_over(gone, kept)
        union = len(self._place_of)
        self._place_of.append(kept)
        self._node_of[kept] = union
        self.alive[[first, second]], self.alive[union] = False, True
        return union

    def _hand_over(self, gone: int, kept: int) -> None:
        """Gives the neighbours of one place to another."""
        neighbours = self._neighbours
        del neighbours[kept][gone], neighbours[gone][kept]
        for other, (length, gradient) in neighbours[gone].items():
            so_far = neighbours[kept].get(other, (0.0, 0.0))
            border = so_far[0] + length, so_far[1] + gradient
            neighbours[kept][other] = neighbours[other][kept] = border
            del neighbours[other][gone]
        neighbours[gone] = {}


def _mean_colours(superpixels: NDArray[np.int64], colours: NDArray[np.float32], leaves: int) -> NDArray[np.float64]:
    numbers = superpixels.ravel()
    sums = [np.bincount(numbers, colours[..., d].ravel(), leaves) for d in range(colours.shape[2])]
    means: NDArray[np.float64] = np.stack(sums, axis=1) / np.bincount(numbers, minlength=leaves)[:, None]
    return means


def _gradient(colours: NDArray[np.float32]) -> NDArray[np.float64]:
    """``[H, W]``: length of the colour gradient of the smoothed image, over all components, in units a pixel."""
    along_axis = np.zeros((2, *colours.shape[:2]))
    for d in range(colours.shape[2]):  # one by one: there may be hundreds, and all in float64 would not fit
        smooth = gaussian_filter(colours[..., d].astype(np.float64), _GRADIENT_SIGMA)
        for axis in (0, 1):
            if smooth.shape[axis] > 1:
                along_axis[axis] += np.square(np.gradient(smooth, axis=axis))
    lengths: NDArray[np.float64] = np.sqrt(along_axis.sum(axis=0))
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
