"""The region measures of the Berkeley benchmark: covering, probabilistic Rand index, variation of information.

Each is computed for two readings of a prediction. *Components*: its regions are the 4-connected components of the
labels, as for the per-segment IoU. *Labels*: a region is a label, connected or not, which is how the original benchmark
takes a label map; there they were connected by construction. A segment of the truth is one label of an annotator's map.

With N pixels, regions ``R`` of the prediction and segments ``S`` of an annotator, the sum going over all of them:

- covering of the truth by the prediction, ``sum_S |S| max_R IoU(R, S) / N``, in (0, 1]: Arbelaez, Maire, Fowlkes and
  Malik, "Contour Detection and Hierarchical Image Segmentation", IEEE TPAMI 2011, section 3.2.3. The other direction,
  of the prediction by the truth, is not reported, as it is not in their tables.
- Rand index, the share of all pairs of pixels that both maps join or both divide, in [0, 1], 1 where there is no pair;
  its mean over the annotators is the probabilistic Rand index: Unnikrishnan, Pantofaru and Hebert, IEEE TPAMI 2007.
- variation of information, ``H(R | S) + H(S | R)``, in **bits** as in the code of the benchmark (the paper names no
  base), 0 for equal maps, lower is better: Meila, "Comparing clusterings", J. Multivariate Analysis 2007.

The score of an image is the mean over its annotators, that of a data set the mean over its images. The benchmark's own
code weights the covering otherwise: ``covering_pooled`` adds up areas over all annotators of all images and divides
once, so that an image counts by its number of annotators.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynamicseg.evaluate.overlaps import ImagePair, Overlaps

MEASURES = ("covering", "rand_index", "variation_of_information")


def covering(overlap: Overlaps) -> float:
    """How well the regions cover the segments, in (0, 1]."""
    areas = overlap.segments.areas
    return float((areas * overlap.best_iou).sum() / areas.sum())


def rand_index(overlap: Overlaps) -> float:
    """Share of the pairs of pixels on which both maps agree, in [0, 1]; symmetric."""
    n = int(overlap.pixels.sum())
    if n < 2:
        return 1.0
    apart_in_one = (
        _sum_of_squares(overlap.regions.areas)
        + _sum_of_squares(overlap.segments.areas)
        - 2 * _sum_of_squares(overlap.pixels)
    )
    return 1.0 - apart_in_one / (n * (n - 1))


def variation_of_information(overlap: Overlaps) -> float:
    """Conditional entropies of each map given the other, added, in bits, from 0; symmetric."""
    joint = _entropy(overlap.pixels)
    bits = 2 * joint - _entropy(overlap.regions.areas) - _entropy(overlap.segments.areas)
    return max(bits, 0.0)  # rounding


def _sum_of_squares(counts: NDArray[np.int64]) -> int:
    return int(np.dot(counts, counts))


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


class Regions:
    """Adds up images; see the top of this file for the measures."""

    def __init__(self) -> None:
        self._images: list[dict[str, float]] = []
        self._covered = np.zeros(2)  # by components, by labels; in pixels
        self._area = 0

    def add(self, image: ImagePair) -> dict[str, float]:
        """Counts an image in, and returns its own measures, named as in ``result`` but for the pooled ones."""
        scores = {
            **_means_over_annotators(image.component_overlaps, ""),
            **_means_over_annotators(image.label_overlaps, "_of_labels"),
        }
        self._images.append(scores)
        for components, labels in zip(image.component_overlaps, image.label_overlaps, strict=True):
            area = int(components.pixels.sum())
            self._covered += area * np.array([covering(components), covering(labels)])
            self._area += area
        return scores

    def result(self) -> dict[str, float]:
        """The means over all images so far.

        ``covering``, ``covering_pooled``, ``rand_index`` (probabilistic) and ``variation_of_information`` (bits), of
        components; the same with ``_of_labels`` at the end, of labels.
        """
        means = {name: float(np.mean([scores[name] for scores in self._images])) for name in self._images[0]}
        pooled = self._covered / self._area
        return {**means, "covering_pooled": float(pooled[0]), "covering_pooled_of_labels": float(pooled[1])}


def _means_over_annotators(overlaps: list[Overlaps], ending: str) -> dict[str, float]:
    measures = zip(MEASURES, (covering, rand_index, variation_of_information), strict=True)
    return {f"{name}{ending}": float(np.mean([measure(each) for each in overlaps])) for name, measure in measures}
