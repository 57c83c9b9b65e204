"""Precision, recall and F of boundaries, with a tolerance.

A boundary pixel has another label than its right or its lower neighbour: a line one pixel wide, drawn in the same way
in prediction and truth. A predicted boundary pixel is correct if a boundary pixel of any annotator lies within the
tolerance, and a boundary pixel of an annotator is found if a predicted one does; distances are Euclidean, and the
tolerance is 0.0075 of the image's diagonal, 4.3 pixels in BSDS500. Precision is correct over predicted pixels, recall
is found over drawn pixels, both added up over all images, and recall over all annotators; F is their harmonic mean.

This is NOT the figure of the Berkeley benchmark (Martin, Fowlkes and Malik, IEEE TPAMI 2004), which has the same
tolerance and the same sums, but matches pixels one to one by a minimum-cost bipartite assignment on thinned boundaries.
Here several predicted lines may answer to one drawn line: both rates come out higher, most of all for predictions with
very many boundaries. Compare it among methods scored here, not with published numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicseg.evaluate.overlaps import ImagePair

TOLERANCE = 0.0075
"""How far apart boundaries may be, as a share of the image's diagonal."""


def boundary_pixels(labels: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Pixels with another label than their right or lower neighbour, bool ``[H, W]``.

    Args:
        labels: integers ``[H, W]``.
        valid: bool ``[H, W]``; two neighbours make a boundary only if both are valid. None: all are.
    """
    edge = np.zeros(labels.shape, np.bool_)
    for here, there in ((np.s_[:-1, :], np.s_[1:, :]), (np.s_[:, :-1], np.s_[:, 1:])):
        differs = labels[here] != labels[there]
        if valid is not None:
            differs &= valid[here] & valid[there]
        edge[here] |= differs
    return edge


class Boundaries:
    """Adds up images; see the top of this file for the figures.

    Args:
        tolerance: as a share of the diagonal, >= 0.

    Raises:
        ValueError: the tolerance is negative or not finite.
    """

    def __init__(self, tolerance: float = TOLERANCE) -> None:
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"tolerance is {tolerance}; want a share of the diagonal, 0 or more")
        self.tolerance = tolerance
        self._counts = np.zeros(4, np.int64)

    def add(self, image: ImagePair) -> dict[str, float]:
        """Counts an image in, and returns its own ``precision``, ``recall`` and ``f``."""
        counts = self._count(image)
        self._counts += counts
        return _rates(counts)

    def result(self) -> dict[str, float]:
        """``precision``, ``recall`` and ``f``, each in [0, 1], of all images so far; ``tolerance`` as it was given.

        A rate of no pixels at all is 0, as in the benchmark; where neither side has a boundary, all three are 1.
        """
        return {**_rates(self._counts), "tolerance": self.tolerance}

    def _count(self, image: ImagePair) -> NDArray[np.int64]:
        """Correct, predicted, found and drawn boundary pixels."""
        reach = self.tolerance * math.hypot(*image.prediction.shape)
        drawn = [boundary_pixels(*pair) for pair in zip(image.annotators, image.valid, strict=True)]
        # What one annotator leaves out may still be judged by another.
        masks = [mask for mask in image.valid if mask is not None]
        judged = np.logical_or.reduce(masks) if len(masks) == len(image.valid) else None
        predicted = boundary_pixels(image.prediction, judged)
        correct = _near([predicted], np.logical_or.reduce(drawn), reach)
        found = _near(drawn, predicted, reach)
        return np.array([correct, np.count_nonzero(predicted), found, sum(map(np.count_nonzero, drawn))], np.int64)


def _near(sets: Sequence[NDArray[np.bool_]], other: NDArray[np.bool_], reach: float) -> int:
    """How many pixels of all the sets lie within reach of a pixel of the other."""
    from scipy.ndimage import distance_transform_edt

    if not other.any():
        return 0
    within = distance_transform_edt(~other) <= reach
    return sum(int(np.count_nonzero(pixels & within)) for pixels in sets)


def _rates(counts: NDArray[np.int64]) -> dict[str, float]:
    correct, predicted, found, drawn = (int(count) for count in counts)
    if predicted == drawn == 0:
        return {"precision": 1.0, "recall": 1.0, "f": 1.0}
    precision = correct / predicted if predicted else 0.0
    recall = found / drawn if drawn else 0.0
    both = precision + recall
    return {"precision": precision, "recall": recall, "f": 2 * precision * recall / both if both else 0.0}
