"""How many groups the colours of an image fall into, by the silhouette score: the floor of DynaSeg's label count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAMPLE = 1000
_MOST_GROUPS = 10
_ITERATIONS = 10


def group_count(colours: NDArray[np.float32], mask: NDArray[np.bool_] | None = None, *, seed: int = 0) -> int:
    """The number of groups, 2 to 10, in which pixels are the most alike within and the least between.

    Of a random sample of 1000 pixels, k-means gives the groups; the count with the highest mean silhouette (Rousseeuw,
    "Silhouettes: a graphical aid to the interpretation and validation of cluster analysis", 1987) is taken, the lowest
    on a tie. An image with a single colour has 1.

    Args:
        colours: ``[H, W, D]``, see ``colours.colours``.
        mask: ``[H, W]`` bool, true where there is data; None: everywhere.
        seed: of sample and k-means.
    """
    from scipy.cluster.vq import kmeans2
    from scipy.spatial.distance import cdist

    random = np.random.default_rng(seed)
    valid = np.arange(colours.shape[0] * colours.shape[1]) if mask is None else np.flatnonzero(mask)
    chosen = valid if len(valid) <= _SAMPLE else random.choice(valid, _SAMPLE, replace=False)
    sample = colours.reshape(-1, colours.shape[2])[chosen].astype(np.float64)
    distinct = len(np.unique(sample, axis=0))
    if distinct < 3:
        return distinct
    distances = cdist(sample, sample)
    scores = {}
    for count in range(2, min(_MOST_GROUPS, distinct - 1) + 1):
        _, groups = kmeans2(sample, count, iter=_ITERATIONS, minit="++", missing="warn", seed=random)
        scores[count] = _silhouette(distances, np.unique(groups, return_inverse=True)[1])
    return max(scores, key=lambda count: scores[count])


def _silhouette(distances: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """The mean over all points of ``(b - a) / max(a, b)``; 0 for a point that is alone, and for a single group.

    a is its mean distance to the others of its group, b that to the points of the nearest other group.
    """
    sizes = np.bincount(groups)
    if len(sizes) < 2:
        return 0.0
    points = np.arange(len(groups))
    sums = distances @ (groups[:, None] == np.arange(len(sizes)))
    alone = sizes[groups] == 1
    within = sums[points, groups] / np.maximum(sizes[groups] - 1, 1)
    between = sums / sizes
    between[points, groups] = np.inf
    nearest = between.min(axis=1)
    larger = np.maximum(within, nearest)
    scores = np.divide(nearest - within, larger, out=np.zeros(len(points)), where=~alone & (larger > 0))
    return float(scores.mean())
