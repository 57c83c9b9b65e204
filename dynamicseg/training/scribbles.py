"""Labels drawn in some images of a training: read and checked before it begins, for they are few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynamicseg._files import one_line
from dynamicseg.guidance import LabelFile, read_guidance
from dynamicseg.terms import NO_LABEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynamicseg.training.images import ImageSet

Strokes = Mapping[int, "NDArray[np.int64]"]
"""By the number of an image, ``[H, W]`` labels, -1 where nothing was drawn."""


def read_strokes(images: ImageSet, scribbles: Sequence[object], n_labels: int) -> Strokes:
    """The strokes of each image that has some and can be used.

    Args:
        images: all of them.
        scribbles: for each image, what ``Segmenter.segment`` takes as such, or None.
        n_labels: of the model.

    Raises:
        ValueError, TypeError: as ``guidance.read_guidance`` does; there is not one for each image, or a label is beyond
            those of the model.
        OSError: a file cannot be read.
    """
    if len(scribbles) != len(images):
        raise ValueError(f"scribbles: {len(scribbles)} for {len(images)} images; pass one for each, or None for none")
    strokes = {}
    for number, one in enumerate(scribbles):
        pixels = None if one is None else images.pixels(number)
        if pixels is None:
            continue
        found = read_guidance(pixels.shape[:2], scribbles=one, channels=n_labels, drawn_everywhere=True)
        highest = int(found.drawn.max())
        if highest >= n_labels:
            subject = one.path if isinstance(one, LabelFile) else f"scribbles of image {number}"
            text = f"draws label {highest}, but a model of {n_labels} labels has 0 to {n_labels - 1}: raise n_labels"
            raise ValueError(one_line(subject, text))
        assert found.scribbles is not None
        strokes[number] = np.where(found.scribbles < 0, NO_LABEL, found.drawn[found.scribbles])
    return strokes


def spread(scribbles: NDArray[np.int64], superpixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Scribbles over the whole of each superpixel that they touch, the most frequent label where there are several.

    The network cannot tell a stroke from what is beside it: without this the many pixels beside it, which learn what
    the network calls them already, would decide what the stroke is called, too.

    Args:
        scribbles: ``[h, w]``, -1 where nothing was drawn.
        superpixels: ``[h, w]``, numbers from 0.
    """
    drawn = scribbles >= 0
    if not drawn.any():
        return scribbles
    labels = int(scribbles.max()) + 1
    counts = np.bincount(
        superpixels[drawn] * labels + scribbles[drawn], minlength=(int(superpixels.max()) + 1) * labels
    )
    counts = counts.reshape(-1, labels)
    label = np.where(counts.any(axis=1), counts.argmax(axis=1), NO_LABEL)
    return np.where(drawn, scribbles, label[superpixels])


def order_of_labels(areas: NDArray[np.int64], strokes: Strokes) -> NDArray[np.int64]:
    """Which labels the finished model has, in their order: those that an image has, the largest first.

    But a label that was drawn keeps its number; what is missing before it is filled with labels that no image has.
    """
    by_area = np.argsort(-areas, kind="stable")
    drawn = {int(label) for one in strokes.values() for label in np.unique(one) if label >= 0}
    others = [label for label in by_area.tolist() if label not in drawn]
    alive = sum(areas[label] > 0 for label in others)
    order: list[int] = []
    while alive > 0 or any(label >= len(order) for label in drawn):
        if len(order) in drawn:
            order.append(len(order))
        else:
            order.append(others.pop(0))
            alive -= 1
    return np.array(order, np.int64)
