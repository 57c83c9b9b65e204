"""Per-segment IoU, the score that papers on unsupervised segmentation report for BSDS500.

Each predicted label is split into its 4-connected components. For every segment of every annotator the best
intersection over union with any component is taken; the score is the mean over segments. Papers call it mIoU: Kim,
Kanezaki and Tanaka, "Unsupervised Learning of Image Segmentation Based on Differentiable Feature Clustering", IEEE TIP
2020.

A segment is one label of an annotator's map. In BSDS500 that is an 8-connected set of pixels, in all 1633 maps of train
and val; in three of four maps some segment falls apart into 4-connected pieces, joined at a corner, and these stay one
segment here: they are what the annotator drew. Maps of classes are taken in the same way: where a class lies in several
places, no component is all of it, and even a perfect prediction scores below 1.

The score rewards many small regions: every segment chooses its best one, and what the others look like does not count.
Read it beside the measures of ``regions`` and ``boundaries``.
"""

from __future__ import annotations

import numpy as np

from dynamicseg.evaluate.overlaps import ImagePair


class SegmentIoU:
    """Adds up images; see the top of this file for the score."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(("all", "fine", "coarse"), 0.0)
        self._segments = dict.fromkeys(("all", "fine", "coarse"), 0)

    def add(self, image: ImagePair) -> dict[str, float]:
        """Counts an image in, and returns its own scores, ``all``, ``fine`` and ``coarse``, each in (0, 1]."""
        best = [overlap.best_iou for overlap in image.component_overlaps]
        counts = [len(of_annotator) for of_annotator in best]
        chosen = {
            "all": np.concatenate(best),
            "fine": best[int(np.argmax(counts))],  # the first one on a tie
            "coarse": best[int(np.argmin(counts))],
        }
        for name, values in chosen.items():
            self._sums[name] += float(values.sum())
            self._segments[name] += len(values)
        return {name: float(values.mean()) for name, values in chosen.items()}

    def result(self) -> dict[str, float]:
        """The means over all segments so far.

        ``all`` pools every annotator of every image; ``fine`` takes of each image the annotator with the most segments,
        ``coarse`` the one with the fewest, the first one on a tie. ``segments`` is how many went into ``all``.
        """
        means = {name: self._sums[name] / self._segments[name] for name in self._sums}
        return {**means, "segments": self._segments["all"]}
