"""Scores of predicted labels against classes, over a whole data set: mean IoU and pixel accuracy.

A predicted label has no name, so it is given a class first, the same one in every image: this is for labels that mean
the same everywhere, as those of ``dynamicseg predict`` do. The labels of ``dynamicseg segment`` are numbered anew in
each image.

- ``hungarian``: each label gets at most one class and each class at most one label, so that as many pixels as possible
  are right (Kuhn's assignment, as in Ji et al., "Invariant Information Clustering", ICCV 2019, and PiCIE, CVPR 2021).
  Pixels of labels that are left over are wrong; a class that is left over has IoU 0.
- ``majority``: each label gets the class that most of its pixels have, the lowest number on a tie, so that several
  labels can share a class. More labels can only help: compare only predictions with the same number of them.

Mean IoU goes over the classes that occur in the truth. Ignored pixels enter nothing.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamicseg.evaluate.overlaps import ImagePair
from dynamicseg.partition import partition

Matching: TypeAlias = Literal["hungarian", "majority"]
Counts: TypeAlias = NDArray[np.int64]


class Labelled:
    """Adds up images; see the top of this file for the scores."""

    def __init__(self, matching: Matching) -> None:
        self.matching = matching
        self._found: list[tuple[Counts, Counts, Counts]] = []  # labels, classes, pixels

    def add(self, image: ImagePair) -> dict[str, float]:
        """Counts an image in, all its annotators; it has no scores of its own."""
        for overlap in image.label_overlaps:
            labels = overlap.regions.numbers[overlap.region]
            classes = overlap.segments.numbers[overlap.segment]
            self._found.append((labels, classes, overlap.pixels))
        return {}

    def result(self) -> dict[str, Any]:
        """The scores over all images so far.

        ``miou`` and ``pixel_accuracy``, each in [0, 1]; ``class_iou``: IoU by class number; ``matching``: class number
        by predicted label, for those that have one; ``labels`` and ``classes``: how many there are.
        """
        labels, classes, pixels = (np.concatenate(column) for column in zip(*self._found, strict=True))
        label_numbers, class_numbers, confusion = _confusion(labels, classes, pixels)
        match = hungarian if self.matching == "hungarian" else majority
        class_of = match(confusion)
        iou, accuracy = scores(confusion, class_of)
        matched = [(label, class_numbers[k]) for label, k in zip(label_numbers, class_of, strict=True) if k >= 0]
        return {
            "miou": float(iou.mean()),
            "pixel_accuracy": accuracy,
            "labels": len(label_numbers),
            "classes": len(class_numbers),
            "class_iou": {str(number): float(value) for number, value in zip(class_numbers, iou, strict=True)},
            "matching": {str(label): int(number) for label, number in matched},
        }


def _confusion(labels: Counts, classes: Counts, pixels: Counts) -> tuple[Counts, Counts, Counts]:
    """Label numbers ``[L]``, class numbers ``[C]`` and pixels that have both, ``[L, C]``."""
    rows, columns = partition(labels), partition(classes)
    confusion = np.zeros((len(rows), len(columns)), np.int64)
    np.add.at(confusion, (rows.part, columns.part), pixels)
    return rows.numbers, columns.numbers, confusion


def hungarian(confusion: Counts) -> Counts:
    """The class of each label, one to one, with the most pixels right; -1 for labels without one.

    Args:
        confusion: int64 ``[L, C]``: pixels with label and class.
    """
    from scipy.optimize import linear_sum_assignment

    class_of = np.full(len(confusion), -1, np.int64)
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    class_of[rows] = columns
    return class_of


def majority(confusion: Counts) -> Counts:
    """The class that most pixels of each label have, the first on a tie; ``confusion`` as for ``hungarian``."""
    return np.asarray(confusion.argmax(axis=1), np.int64)


def scores(confusion: Counts, class_of: Counts) -> tuple[NDArray[np.float64], float]:
    """IoU of each class, float64 ``[C]``, and pixel accuracy.

    Args:
        confusion: int64 ``[L, C]``: pixels with label and class; each class has some.
        class_of: int64 ``[L]``: the class that each label stands for, -1 for none.
    """
    classes = confusion.shape[1]
    has_class = class_of >= 0
    as_classes = np.zeros((classes, classes), np.int64)
    np.add.at(as_classes, class_of[has_class], confusion[has_class])
    right = np.diagonal(as_classes)
    union = as_classes.sum(axis=1) + confusion.sum(axis=0) - right
    return right / union, float(right.sum() / confusion.sum())
