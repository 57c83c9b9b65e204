"""What every protocol is computed from: regions of a prediction, segments of the truth, and how they overlap.

Nothing dense is made of regions times segments: with a component for every few pixels that would be a large table of
zeros. Only the overlaps that exist are held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicseg.partition import DENSE_CELLS_PER_PIXEL, Partition, connected_components, partition


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The overlaps, n of them, of the regions of one map with the segments of another; each has pixels.

    Attributes:
        regions: the one partition.
        segments: the other, of the same N pixels.
        region: int64 ``[n]``, which part of ``regions``.
        segment: int64 ``[n]``, which part of ``segments``.
        pixels: int64 ``[n]``, of both.
    """

    regions: Partition
    segments: Partition
    region: NDArray[np.int64]
    segment: NDArray[np.int64]
    pixels: NDArray[np.int64]

    @cached_property
    def best_iou(self) -> NDArray[np.float64]:
        """For each segment the highest intersection over union with any region, float64 ``[segments]``, in (0, 1]."""
        union = self.regions.areas[self.region] + self.segments.areas[self.segment] - self.pixels
        best = np.zeros(len(self.segments))
        np.maximum.at(best, self.segment, self.pixels / union)
        return best


def overlaps(regions: Partition, segments: Partition) -> Overlaps:
    """The overlaps of two partitions of the same pixels."""
    cells, width = len(regions) * len(segments), len(segments)
    code = regions.part * width + segments.part
    if cells <= DENSE_CELLS_PER_PIXEL * code.size + 1024:
        counts = np.bincount(code)
        present = np.flatnonzero(counts)
        counts = counts[present]
    else:
        present, counts = np.unique(code, return_counts=True)
    region, segment = np.divmod(present.astype(np.int64), max(width, 1))
    return Overlaps(regions, segments, region, segment, counts.astype(np.int64))


class ImagePair:
    """One predicted label map and what it is held against, with what the protocols compute from them, once.

    Attributes:
        prediction: integers ``[H, W]``; any numbers.
        annotators: at least one map of integers ``[H, W]``: the same image as different people divided it, or its one
            map of classes.
        valid: for each annotator bool ``[H, W]``, False where its label is the ignored one; None where all count.

    Raises:
        TypeError: a map does not hold integers.
        ValueError: no annotators, no pixels, or maps of different sizes.
    """

    def __init__(
        self,
        prediction: NDArray[Any],
        annotators: Sequence[NDArray[Any]],
        *,
        ignore_label: int | None = None,
    ) -> None:
        if not annotators:
            raise ValueError("there is no annotator's map to compare with")
        for name, labels in [("prediction", prediction), *(("truth", labels) for labels in annotators)]:
            if labels.dtype.kind not in "biu":
                raise TypeError(f"{name} has dtype {labels.dtype}; want integers")
            if labels.ndim != 2 or labels.size == 0:
                raise ValueError(f"{name} has shape {labels.shape}; want [H, W] with at least one pixel")
            if labels.shape != prediction.shape:
                raise ValueError(f"prediction is {size_of(prediction)}, truth is {size_of(labels)} (width x height)")
        self.prediction = prediction
        self.annotators = list(annotators)
        self.valid: list[NDArray[np.bool_] | None] = [None] * len(annotators)
        if ignore_label is not None:
            masks = [np.asarray(labels != ignore_label) for labels in annotators]
            self.valid = [None if mask.all() else mask for mask in masks]

    @property
    def is_labelled(self) -> bool:
        """Whether every annotator labelled at least one pixel that counts."""
        return all(mask is None or bool(mask.any()) for mask in self.valid)

    @cached_property
    def segments(self) -> list[Partition]:
        """The segments of each annotator: the pixels that have one label and count, connected or not."""
        pairs = zip(self.annotators, self.valid, strict=True)
        return [partition(labels if mask is None else labels[mask]) for labels, mask in pairs]

    @cached_property
    def label_overlaps(self) -> list[Overlaps]:
        """Predicted labels as they are, connected or not, with the segments of each annotator."""
        return self._overlaps_of(self.prediction)

    @cached_property
    def component_overlaps(self) -> list[Overlaps]:
        """4-connected components of the predicted labels with the segments of each annotator."""
        return self._overlaps_of(connected_components(self.prediction))

    def _overlaps_of(self, regions: NDArray[Any]) -> list[Overlaps]:
        # One partition serves all annotators who labelled every pixel.
        whole = partition(regions)
        return [
            overlaps(whole if mask is None else partition(regions[mask]), segments)
            for segments, mask in zip(self.segments, self.valid, strict=True)
        ]


def size_of(labels: NDArray[Any]) -> str:
    """``WIDTHxHEIGHT`` of a map ``[H, W]``."""
    return f"{labels.shape[1]}x{labels.shape[0]}"
