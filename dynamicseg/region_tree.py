"""A tree of regions: superpixels, and what comes of merging the most similar neighbours until nothing is left to merge.

Its nodes are the regions that a segmentation may be put together from: small ones beside large ones, each pixel in just
one of them. Which of them to take is the business of ``consensus``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynamicseg import _native

# Square of the colour gradient along a border, against the square of the distance of the mean colours on its two sides.
# Tuned on BSDS500 train, where a third and three times as much score alike.
_GRADIENT_WEIGHT = 15.0
_GRADIENT_SIGMA = 1.0
# Of a border between parts of an image that pixels without data keep apart: they are merged last.
_NO_BORDER_GRADIENT = 1e6
# Square of the distance of mean features, whose mean square over the image is 1, against that of the mean colours.
# It counts in full between large regions only, half where the smaller one has ``_HALF_AREA`` pixels: maps have one
# value for many pixels, so that superpixels have much of their features from their neighbours.
_FEATURE_WEIGHT = 1000.0
_HALF_AREA = 500.0
# Regions that features alone divide an image into, see ``divided_by_features``.
_COUNTS_BY_FEATURES = (5, 15, 40)
_HALF_AREA_BY_FEATURES = 2000.0


@dataclass(frozen=True, eq=False)
class RegionTree:
    """Nodes 0 to ``leaves`` - 1 are superpixels; node ``leaves + i`` is the union of the two of ``children[i]``.

    Attributes:
        superpixels: ``[H, W]`` int64, the leaf of each pixel, -1 where there is no data.
        leaves: how many there are.
        children: ``[leaves - 1, 2]`` int64, in the order of merging, the most similar first. The last node is the whole
            image: on a grid no superpixel is without neighbours.
    """

    superpixels: NDArray[np.int64]
    leaves: int
    children: NDArray[np.int64]

    def areas(self) -> NDArray[np.int64]:
        """Pixels of each node."""
        return self.sums(np.bincount(self.superpixels[self.superpixels >= 0]))

    def sums(self, of_leaves: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of each node, the sum over its leaves; those beyond the end of ``of_leaves`` have 0."""
        sums = np.zeros(self.leaves + len(self.children), np.int64)
        sums[: len(of_leaves)] = of_leaves
        for node, (first, second) in enumerate(self.children, self.leaves):
            sums[node] = sums[first] + sums[second]
        return sums

    def region_map(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """``[H, W]``: for each pixel, which of ``nodes`` it lies in, as a position; they must cover every leaf once.

        -1 where there is no data.
        """
        position = np.full(self.leaves + len(self.children), -1, np.int64)
        position[nodes] = np.arange(len(nodes))
        for node in range(len(position) - 1, self.leaves - 1, -1):
            if position[node] >= 0:
                position[self.children[node - self.leaves]] = position[node]
        return np.where(self.superpixels < 0, -1, position[self.superpixels])


def merge_neighbours(
    superpixels: NDArray[np.int64], colours: NDArray[np.float32], features: NDArray[np.float64] | None = None
) -> RegionTree:
    """Merges the two most similar neighbours again and again, until one region is left.

    The dissimilarity of two regions is the squared distance of their mean colours, plus a constant times the square of
    the mean colour gradient along their common border. So a smooth slope is no border, and two sides of an edge stay
    apart even where their means are alike. With features, the squared distance of their means is added, so that parts
    of one thing come together before two things of one colour do. Of equally similar pairs the one with the lowest node
    goes first.

    Args:
        superpixels: ``[H, W]``, numbers from 0 without gaps, -1 where there is no data.
        colours: ``[H, W, D]``, see ``colours.colours``.
        features: of each superpixel, ``[n, F]``, see ``features.pooling.pooled``.
    """
    leaves = int(superpixels.max()) + 1
    means = mean_colours(superpixels, colours, leaves)
    borders = borders_of(superpixels, colour_gradient(colours), leaves)
    if features is None:
        features = np.empty((leaves, 0))
    return _tree(superpixels, means, np.sqrt(_FEATURE_WEIGHT) * features, borders, _HALF_AREA)


def divided_by_features(superpixels: NDArray[np.int64], features: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Coarse segmentations by features alone: views for ``consensus``.

    Neighbours are merged as in ``merge_neighbours``, but without colours and gradients, and the area matters more: so
    no small region with features of its own is left over for the end.

    Args:
        superpixels: see ``merge_neighbours``.
        features: see ``merge_neighbours``.

    Returns:
        Of each, ``[H, W]`` numbers from 0 without gaps.
    """
    leaves = len(features)
    borders = borders_of(superpixels, np.zeros(superpixels.shape), leaves)
    tree = _tree(superpixels, np.empty((leaves, 0)), features, borders, _HALF_AREA_BY_FEATURES)
    return [tree.region_map(_after_merges(tree, max(0, leaves - count))) for count in _COUNTS_BY_FEATURES]


def _after_merges(tree: RegionTree, merges: int) -> NDArray[np.int64]:
    """The nodes that are there after so many merges."""
    nodes = np.arange(tree.leaves + merges)
    return nodes[~np.isin(nodes, tree.children[:merges])]


def _tree(
    superpixels: NDArray[np.int64],
    colours: NDArray[np.float64],
    features: NDArray[np.float64],
    borders: Borders,
    half_area: float,
) -> RegionTree:
    """Of superpixels with these mean colours and features; see dynamicseg/region_tree.h."""
    leaves = len(colours)
    areas = np.bincount(superpixels[superpixels >= 0], minlength=leaves).astype(np.float64)
    borders = _connected(borders, leaves)
    means = np.concatenate([colours, features], axis=1)
    children = np.empty((leaves - 1, 2), np.int64)
    _native.merge_neighbours(
        leaves=leaves,
        colours=colours.shape[1],
        features=features.shape[1],
        areas=areas.ctypes.data,
        means=means.ctypes.data,
        pairs=len(borders.first),
        first=borders.first.ctypes.data,
        second=borders.second.ctypes.data,
        lengths=borders.lengths.ctypes.data,
        gradients=borders.gradients.ctypes.data,
        gradient_weight=_GRADIENT_WEIGHT,
        half_area=half_area,
        children=children.ctypes.data,
    )
    return RegionTree(superpixels, leaves, children)


def mean_colours(superpixels: NDArray[np.int64], colours: NDArray[np.float32], leaves: int) -> NDArray[np.float64]:
    """``[leaves, D]``, see ``merge_neighbours``."""
    valid = superpixels >= 0
    numbers = superpixels[valid]
    sums = [np.bincount(numbers, colours[..., d][valid], leaves) for d in range(colours.shape[2])]
    means: NDArray[np.float64] = np.stack(sums, axis=1) / np.bincount(numbers, minlength=leaves)[:, None]
    return means


def colour_gradient(colours: NDArray[np.float32]) -> NDArray[np.float64]:
    """``[H, W]``: length of the colour gradient of the smoothed image, over all components, in units a pixel."""
    from scipy.ndimage import gaussian_filter

    along_axis = np.zeros((2, *colours.shape[:2]))
    for d in range(colours.shape[2]):  # one by one: there may be hundreds, and all in float64 would not fit
        smooth = gaussian_filter(colours[..., d].astype(np.float64), _GRADIENT_SIGMA)
        for axis in (0, 1):
            if smooth.shape[axis] > 1:
                along_axis[axis] += np.square(np.gradient(smooth, axis=axis))
    lengths: NDArray[np.float64] = np.sqrt(along_axis.sum(axis=0))
    return lengths


class Borders(NamedTuple):
    """Between superpixels that share a side of a pixel; each array has one entry a pair.

    Attributes:
        first, second: int64, the lower and the higher number of the two.
        lengths: float64, of the border, in sides of pixels.
        gradients: float64, the sum of the gradient along it.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    lengths: NDArray[np.float64]
    gradients: NDArray[np.float64]


def borders_of(superpixels: NDArray[np.int64], gradient: NDArray[np.float64], leaves: int) -> Borders:
    """All borders between superpixels, with the gradient ``[H, W]`` along them."""
    keys, strengths = [], []
    for here, there in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        low = np.minimum(superpixels[here], superpixels[there])
        high = np.maximum(superpixels[here], superpixels[there])
        differ = (low != high) & (low >= 0)
        keys.append(low[differ] * leaves + high[differ])
        strengths.append((gradient[here] + gradient[there])[differ] / 2)
    pairs, pair_of = np.unique(np.concatenate(keys), return_inverse=True)
    lengths = np.bincount(pair_of, minlength=len(pairs))
    gradients = np.bincount(pair_of, np.concatenate(strengths), len(pairs))
    first, second = np.divmod(pairs, leaves)
    return Borders(first, second, lengths.astype(np.float64), gradients.astype(np.float64))


def _connected(borders: Borders, leaves: int) -> Borders:
    """With a border more between the parts of an image that pixels without data keep apart, one after another."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((borders.lengths, (borders.first, borders.second)), shape=(leaves, leaves))
    count, part = connected_components(graph, directed=False)
    if count == 1:
        return borders
    _, one_of_each = np.unique(part, return_index=True)
    ends = np.sort(one_of_each).astype(np.int64)
    return Borders(
        np.concatenate([borders.first, ends[:-1]]),
        np.concatenate([borders.second, ends[1:]]),
        np.concatenate([borders.lengths, np.ones(count - 1)]),
        np.concatenate([borders.gradients, np.full(count - 1, _NO_BORDER_GRADIENT)]),
    )
