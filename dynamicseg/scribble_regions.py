"""Regions from scribbles: each label drawn grows over what it means.

Superpixels that hold a stroke have its label. From any other a walker sets out, from superpixel to superpixel, and more
likely over a long border, a weak edge, between similar colours, and where other segmentations see one region. The label
is that of the stroke which he most likely comes to first: the random walker of Grady, "Random Walks for Image
Segmentation" (IEEE TPAMI 2006), whose probabilities solve a sparse system of linear equations. On the way each pixel
may end the walk, as one that resembles what was drawn, in colour or by the network's labels, may end it in that label.
Where more walks end on the way than come to a stroke, no label drawn is meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynamicseg.region_tree import borders_of, colour_gradient, mean_colours
from dynamicseg.terms import NO_LABEL

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csc_array

# Tuned on BSDS500 train, with one stroke for each segment and with strokes for half of them; twice as much of any
# scores alike.
_PER_DIFFERENCE = 0.3  # of colours, black and white being 100 apart
_GRADIENT_WEIGHT = 5.0
_PER_DISAGREEMENT = 8.0
_COLOUR_SIGMA = 10.0
_END_AS_COLOUR = 1e-4  # of walks in a pixel, as for the two that follow
_END_AS_NETWORK = 1e-4
_END = 1e-5
_NO_CONDUCTANCE = 1e-12  # so that the equations have a solution


def split_by_scribbles(superpixels: NDArray[np.int64], scribbles: NDArray[np.int64]) -> NDArray[np.int64]:
    """``superpixels`` such that none holds strokes of two labels: its pixels go to the nearest stroke in it.

    Args:
        superpixels: ``[H, W]`` numbers from 0 without gaps, -1 where there is no data.
        scribbles: ``[H, W]`` numbers from 0, -1 where nothing was drawn, as there is where there is no data.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    drawn = scribbles >= 0
    pairs = np.unique(np.stack([superpixels[drawn], scribbles[drawn]], axis=1), axis=0)
    shared = pairs[1:, 0][pairs[1:, 0] == pairs[:-1, 0]]
    result = superpixels.copy()
    count = int(superpixels.max()) + 1
    places = find_objects(superpixels + 1)
    for number in np.unique(shared):
        place = places[number]
        inside = superpixels[place] == number
        strokes = np.where(inside, scribbles[place], NO_LABEL)
        rows, columns = distance_transform_edt(strokes < 0, return_distances=False, return_indices=True)
        nearest = strokes[rows, columns]
        for label in np.unique(strokes[strokes >= 0])[1:]:
            result[place][inside & (nearest == label)] = count
            count += 1
    return result


def grown_labels(
    superpixels: NDArray[np.int64],
    scribbles: NDArray[np.int64],
    colours: NDArray[np.float32],
    views: Sequence[NDArray[np.int64]],
    network_labels: NDArray[np.int64],
    *,
    everywhere: bool,
) -> NDArray[np.int64]:
    """Which of the labels drawn each pixel means, ``[H, W]``, -1 where it means none, or there is no data.

    Args:
        superpixels: see ``split_by_scribbles``, which has split them.
        scribbles: see ``split_by_scribbles``.
        colours: ``[H, W, D]``, see ``colours.colours``.
        views: other segmentations ``[H, W]``, numbers from 0.
        network_labels: ``[H, W]``, of a network that was told the scribbles, so that these are its first labels.
        everywhere: whether each pixel has to mean one of them.
    """
    leaves = int(superpixels.max()) + 1
    valid = superpixels >= 0
    areas = np.bincount(superpixels[valid], minlength=leaves).astype(np.float64)
    means = mean_colours(superpixels, colours, leaves)
    seeds = np.full(leaves, NO_LABEL)
    seeds[superpixels[scribbles >= 0]] = scribbles[scribbles >= 0]
    labels = int(scribbles.max()) + 1

    numbers, of_network = superpixels[valid], network_labels[valid]
    known = of_network < labels
    both = np.bincount(numbers[known] * labels + of_network[known], minlength=leaves * labels)
    by_network = both.reshape(leaves, labels) / areas[:, None]
    by_colour = _resemblance(means, areas, seeds, labels)
    as_label = _END_AS_COLOUR * by_colour + _END_AS_NETWORK * by_network
    # That the network calls it something else says little, for it calls most things something else at first.
    as_none = np.zeros(leaves) if everywhere else _END + _END_AS_COLOUR * (1 - by_colour.sum(axis=1))
    conductances = _conductances(superpixels, colours, means, views, leaves)
    reached = _reached(conductances, seeds, areas[:, None] * as_label, areas * as_none)
    label = reached.argmax(axis=1)
    if not everywhere:
        label[reached.sum(axis=1) < 0.5] = NO_LABEL
    return np.where(valid, label[superpixels], NO_LABEL)


def _resemblance(
    means: NDArray[np.float64], areas: NDArray[np.float64], seeds: NDArray[np.int64], labels: int
) -> NDArray[np.float64]:
    """``[leaves, labels]``: how much a superpixel is like those with strokes; in sum near 1 if like any, else less."""
    result = np.zeros((len(means), labels))
    for seed in np.flatnonzero(seeds >= 0):  # one by one: strokes may cover thousands
        distances = np.square(means - means[seed]).sum(axis=1)
        result[:, seeds[seed]] += np.sqrt(areas[seed]) * np.exp(-distances / (2 * _COLOUR_SIGMA**2))
    result /= result.sum(axis=1, keepdims=True) + 1e-3
    return result


def _conductances(
    superpixels: NDArray[np.int64],
    colours: NDArray[np.float32],
    means: NDArray[np.float64],
    views: Sequence[NDArray[np.int64]],
    leaves: int,
) -> csc_array:
    """``[leaves, leaves]``: how easily one comes from each superpixel to each of its neighbours."""
    from scipy.sparse import coo_array, csc_array

    borders = borders_of(superpixels, colour_gradient(colours), leaves)
    first, second = borders.first, borders.second
    gradients = borders.gradients / borders.lengths
    differences = np.sqrt(np.square(means[first] - means[second]).sum(axis=1) + _GRADIENT_WEIGHT * np.square(gradients))
    disagreements = np.zeros(len(first))
    for view in views:
        region = _most_frequent(view, superpixels, leaves)
        disagreements += (region[first] != region[second]) / len(views)
    weights = borders.lengths * np.exp(-_PER_DIFFERENCE * differences - _PER_DISAGREEMENT * disagreements)
    weights += _NO_CONDUCTANCE
    both_ways = np.concatenate([first, second]), np.concatenate([second, first])
    return csc_array(coo_array((np.concatenate([weights, weights]), both_ways), shape=(leaves, leaves)))


def _most_frequent(view: NDArray[np.int64], superpixels: NDArray[np.int64], leaves: int) -> NDArray[np.int64]:
    """The region of ``view`` that most pixels of each superpixel lie in; of equally many the last one."""
    valid = superpixels >= 0
    regions = int(view.max()) + 1
    pairs, counts = np.unique(superpixels[valid] * regions + view[valid], return_counts=True)
    order = np.argsort(counts, kind="stable")
    result = np.empty(leaves, np.int64)
    result[pairs[order] // regions] = pairs[order] % regions  # the last one stays
    return result


def _reached(
    conductances: csc_array, seeds: NDArray[np.int64], as_label: NDArray[np.float64], as_none: NDArray[np.float64]
) -> NDArray[np.float64]:
    """``[leaves, labels]``: which share of the walks from each superpixel ends in each label."""
    from scipy.sparse import csc_array, diags_array
    from scipy.sparse.linalg import splu

    shares = np.zeros(as_label.shape)
    drawn = seeds >= 0
    shares[drawn, seeds[drawn]] = 1.0
    free = np.flatnonzero(~drawn)
    if len(free) == 0:
        return shares
    leaving = np.asarray(conductances.sum(axis=0)).ravel() + as_label.sum(axis=1) + as_none + _NO_CONDUCTANCE
    from_free = conductances[free]
    system = csc_array(diags_array(leaving[free]) - from_free[:, free])
    solution = splu(system).solve(from_free[:, np.flatnonzero(drawn)] @ shares[drawn] + as_label[free])
    shares[free] = solution
    return shares
