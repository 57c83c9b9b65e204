"""Bringing a label map to the number of labels that was asked for."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg.partition import partition

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A colour difference that counts like two regions that have no label of the network in common; black to white is 100.
_COLOUR_UNIT = 20.0


class PixelFeatures:
    """What tells pixels apart where labels are merged or split: their colours, and what the network calls them.

    Features are the colours in units of ``_COLOUR_UNIT``, then for each label of the network 1 / sqrt 2 or 0, so that
    two pixels with different labels are 1 apart. They are made of a few pixels at a time: those of a large image would
    take more memory than all else after its training.

    Args:
        colours: ``[H, W, D]``, see ``colours.colours``.
        network_labels: integers ``[H, W]``, what the trained network calls each pixel.
    """

    def __init__(self, colours: NDArray[np.float32], network_labels: NDArray[Any]) -> None:
        self._colours = colours.reshape(-1, colours.shape[2])
        of_network = partition(network_labels)
        self._network_labels = of_network.part
        self._count = len(of_network)

    def at(self, pixels: NDArray[np.int64]) -> PixelFeatures:
        """The same of these pixels alone, by number."""
        if len(pixels) == len(self._colours):
            return self
        return PixelFeatures(self._colours[pixels][None], self._network_labels[pixels])

    def of(self, pixels: NDArray[np.int64]) -> NDArray[np.float64]:
        """``[n, D + K]``, with K the network's labels among ``pixels``, if there are two or more of them."""
        colours = self._colours[pixels] / _COLOUR_UNIT
        network_labels = self._network_labels[pixels]
        present = np.flatnonzero(np.bincount(network_labels, minlength=self._count))
        if len(present) < 2:
            return colours.astype(np.float64)
        return np.concatenate([colours, (network_labels[:, None] == present) / np.sqrt(2)], axis=1)

    def means(self, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """``[n, D + K]``: of each of n labels, ``[H, W]`` from 0 without gaps; K as many as the network has."""
        numbers, areas = labels.ravel(), np.bincount(labels.ravel())[:, None]
        sums = [np.bincount(numbers, self._colours[:, d]) for d in range(self._colours.shape[1])]
        both = np.bincount(numbers * self._count + self._network_labels, minlength=len(areas) * self._count)
        shares = both.reshape(len(areas), self._count) / areas
        return np.concatenate([np.stack(sums, axis=1) / areas / _COLOUR_UNIT, shares / np.sqrt(2)], axis=1)


def counted_labels(
    labels: NDArray[np.int64],
    scribbles: NDArray[np.int64] | None,
    drawn: int,
    features: PixelFeatures,
    least: int | None,
    most: int | None,
) -> NDArray[np.int64]:
    """``with_label_count``, but labels that were drawn stay, and keep all that was drawn of them.

    Args:
        labels: ``[H, W]``, numbers below ``drawn`` for the labels drawn, -1 where there is no data.
        scribbles: ``[H, W]``, labels drawn, -1 elsewhere.
        drawn: how many labels are drawn.
        features: of the same pixels.
        least: see ``with_label_count``.
        most: see ``with_label_count``; at least ``drawn``.
    """
    flat = labels.ravel()
    own = flat >= drawn
    count = drawn + len(np.unique(flat[own]))
    if most is not None and count > most:
        if most == drawn:  # in regions all are grown into one that was drawn
            result = flat.copy()
            result[own] = _nearest_drawn(flat, own, drawn, features)
            return result.reshape(labels.shape)
        chosen, least = np.flatnonzero(own), None
        most -= drawn
    elif least is not None and count < least:
        free = flat >= 0 if scribbles is None else (flat >= 0) & (scribbles.ravel() < 0)
        chosen, most = np.flatnonzero(free), None
        least -= drawn - len(np.unique(flat[free & ~own]))
    else:
        return labels
    found = partition(flat[chosen])
    counted = with_label_count(found.part[None], features.at(chosen), least, most)[0]
    # A part of a label that is split keeps its number; the new ones come after all others.
    names = np.concatenate([found.numbers, int(flat.max()) + 1 + np.arange(int(counted.max()) + 1)])
    result = flat.copy()
    result[chosen] = names[counted]
    return result.reshape(labels.shape)


def _nearest_drawn(
    flat: NDArray[np.int64], own: NDArray[np.bool_], drawn: int, features: PixelFeatures
) -> NDArray[np.int64]:
    """For each pixel of ``own``, the label drawn whose mean features are the nearest to those of its own label."""
    valid = np.flatnonzero(flat >= 0)
    found = partition(flat[valid])
    means = features.at(valid).means(found.part)
    position = np.searchsorted(found.numbers, flat[own])
    of_drawn = found.numbers < drawn
    distances = np.square(means[:, None] - means[of_drawn][None]).sum(axis=2)
    nearest: NDArray[np.int64] = found.numbers[of_drawn][distances.argmin(axis=1)][position]
    return nearest


def with_label_count(
    labels: NDArray[np.int64], features: PixelFeatures, least: int | None, most: int | None
) -> NDArray[np.int64]:
    """``labels`` with at least ``least`` and at most ``most`` of them, unchanged where that is so already.

    Too many: the two closest are merged again and again, by Ward's criterion (the merge that adds least to the sum of
    squared distances from the mean feature of each label), wherever they lie. Too few: the label with the largest such
    sum is split again and again, half-way across the direction in which its features vary most; where no features
    differ, the largest label, between its first and its second half in the order of rows.

    Args:
        labels: ``[H, W]`` numbers from 0 without gaps.
        features: of the same pixels.
        least: at most the number of pixels; None: no bound.
        most: at least 1 and ``least``; None: no bound.

    Returns:
        ``[H, W]`` numbers from 0 without gaps.
    """
    count = int(labels.max()) + 1
    if most is not None and count > most:
        return _merged(labels, features, most)
    if least is not None and count < least:
        return _split(labels, features, least)
    return labels


def _merged(labels: NDArray[np.int64], features: PixelFeatures, most: int) -> NDArray[np.int64]:
    areas = np.bincount(labels.ravel()).astype(np.float64)
    merges = _ward_merges(features.means(labels), areas)
    merges.sort(key=lambda merge: merge[0])  # stable: of equal ones the first found comes first
    group = np.arange(len(areas))
    for _, first, second in merges[: len(areas) - most]:
        group[group == group[second]] = group[first]
    _, group = np.unique(group, return_inverse=True)
    result: NDArray[np.int64] = group[labels]
    return result


def _ward_merges(means: NDArray[np.float64], areas: NDArray[np.float64]) -> list[tuple[float, int, int]]:
    """All merges down to one label, as (criterion, one label of the first group, one label of the second).

    By nearest-neighbour chains (Murtagh, "A Survey of Recent Advances in Hierarchical Clustering Algorithms", The
    Computer Journal 1983): every merge of mutual nearest neighbours is one that the greedy order makes, too.
    """
    names = np.arange(len(areas))
    means, areas = means.T.copy(), areas.copy()  # a row for each feature: sums over features then run along labels
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    left = len(areas)
    while left > 1:
        if not chain:
            alive = np.flatnonzero(areas)
            names, means, areas = names[alive], means[:, alive], areas[alive]
            chain.append(0)
        here = chain[-1]
        costs = np.square(means - means[:, here, None]).sum(axis=0) * (areas * areas[here] / (areas + areas[here]))
        costs[areas == 0] = np.inf  # part of another
        costs[here] = np.inf
        nearest = int(np.argmin(costs))
        if len(chain) > 1 and costs[chain[-2]] <= costs[nearest]:
            nearest = chain[-2]
            merges.append((float(costs[nearest]), int(names[nearest]), int(names[here])))
            total = areas[nearest] + areas[here]
            means[:, nearest] = (areas[nearest] * means[:, nearest] + areas[here] * means[:, here]) / total
            areas[nearest], areas[here] = total, 0.0
            left -= 1
            del chain[-2:]
        else:
            chain.append(nearest)
    return merges


def _split(labels: NDArray[np.int64], features: PixelFeatures, least: int) -> NDArray[np.int64]:
    labels = labels.copy()
    flat = labels.ravel()
    members = np.split(np.argsort(flat, kind="stable"), np.cumsum(np.bincount(flat))[:-1])

    def place_in_queue(label: int) -> tuple[float, int, int]:
        return -_spread(features.of(members[label])), -len(members[label]), label

    queue = [place_in_queue(label) for label in range(len(members))]
    heapq.heapify(queue)
    while len(members) < least:
        spread, _, label = heapq.heappop(queue)
        pixels = members[label]
        apart = _second_half(features.of(pixels)) if spread < 0 else np.arange(len(pixels)) >= len(pixels) // 2
        flat[pixels[apart]] = len(members)
        members[label] = pixels[~apart]
        members.append(pixels[apart])
        for part in (label, len(members) - 1):
            heapq.heappush(queue, place_in_queue(part))
    return labels


def _spread(features: NDArray[np.float64]) -> float:
    """Sum of squared distances from the mean; 0 where they are all the same."""
    if not np.any(features != features[0]):
        return 0.0
    return float(np.square(features - features.mean(axis=0)).sum())


def _second_half(features: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of them lie in the upper half of the range along the first principal component; neither all nor none."""
    centred = features - features.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    along = centred @ directions[:, -1]
    upper: NDArray[np.bool_] = along > (along.min() + along.max()) / 2
    return upper
