"""Bringing a label map to the number of labels that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A colour difference that counts like two regions that have no label of the network in common; black to white is 100.
_COLOUR_UNIT = 20.0


def label_features(colours: NDArray[np.float32], network_labels: NDArray[Any]) -> NDArray[np.float32]:
    """``[H, W, D]``: what tells pixels apart where labels are merged or split.

    Args:
        colours: ``[H, W, D']``, see ``colours.colours``.
        network_labels: integers ``[H, W]``, what the trained network calls each pixel.
    """
    numbers, place = np.unique(network_labels, return_inverse=True)
    one_hot = np.eye(len(numbers), dtype=np.float32)[place.reshape(network_labels.shape)]
    return np.concatenate([colours / np.float32(_COLOUR_UNIT), one_hot / np.float32(np.sqrt(2))], axis=2)


def with_label_count(
    labels: NDArray[np.int64], features: NDArray[np.float32], least: int | None, most: int | None
) -> NDArray[np.int64]:
    """``labels`` with at least ``least`` and at most ``most`` of them, unchanged where that is so already.

    Too many: the two closest are merged again and again, by Ward's criterion (the merge that adds least to the sum of
    squared distances from the mean feature of each label), wherever they lie. Too few: the label with the largest such
    sum is split again and again, across the direction in which its features vary most.

    Args:
        labels: ``[H, W]`` numbers from 0 without gaps.
        features: ``[H, W, D]``.
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


def _merged(labels: NDArray[np.int64], features: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    numbers = labels.ravel()
    areas = np.bincount(numbers).astype(np.float64)
    sums = [np.bincount(numbers, features[..., d].ravel()) for d in range(features.shape[2])]
    merges = _ward_merges(np.stack(sums, axis=1) / areas[:, None], areas)
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
    means, areas = means.copy(), areas.copy()
    alive = np.ones(len(areas), np.bool_)
    merges: list[tuple[float, int, int]] = []
    chain: list[int] = []
    while len(merges) < len(areas) - 1:
        if not chain:
            chain.append(int(np.argmax(alive)))
        here = chain[-1]
        weights = areas * areas[here] / (areas + areas[here])
        costs = np.where(alive, weights * np.square(means - means[here]).sum(axis=1), np.inf)
        costs[here] = np.inf
        nearest = int(np.argmin(costs))
        if len(chain) > 1 and costs[chain[-2]] <= costs[nearest]:
            nearest = chain[-2]
            merges.append((float(costs[nearest]), nearest, here))
            total = areas[nearest] + areas[here]
            means[nearest] = (areas[nearest] * means[nearest] + areas[here] * means[here]) / total
            areas[nearest] = total
            alive[here] = False
            del chain[-2:]
        else:
            chain.append(nearest)
    return merges


def _split(labels: NDArray[np.int64], features: NDArray[np.float32], least: int) -> NDArray[np.int64]:
    labels = labels.copy()
    flat = labels.ravel()
    pixel_features = features.reshape(len(flat), -1).astype(np.float64)
    members = [np.flatnonzero(flat == label) for label in range(int(flat.max()) + 1)]
    spread = [_spread(pixel_features[pixels]) for pixels in members]
    while len(members) < least:
        # Where no features differ, the largest label is cut in two halves.
        widest = max(range(len(members)), key=lambda label: (spread[label], len(members[label])))
        pixels = members[widest]
        apart = (
            _second_half(pixel_features[pixels]) if spread[widest] > 0 else np.arange(len(pixels)) >= len(pixels) // 2
        )
        flat[pixels[apart]] = len(members)
        members[widest] = pixels[~apart]
        members.append(pixels[apart])
        spread[widest] = _spread(pixel_features[members[widest]])
        spread.append(_spread(pixel_features[members[-1]]))
    return labels


def _spread(features: NDArray[np.float64]) -> float:
    """Sum of squared distances from the mean; 0 where they are all the same."""
    if not np.any(features != features[0]):
        return 0.0
    return float(np.square(features - features.mean(axis=0)).sum())


def _second_half(features: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of them lie beyond the mean along the first principal component; never all of them, never none."""
    centred = features - features.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    along = centred @ directions[:, -1]
    beyond: NDArray[np.bool_] = along > (along.min() + along.max()) / 2
    return beyond
