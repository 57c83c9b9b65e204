"""Label maps as annotations in the COCO format, with masks as compressed run lengths. Needs NumPy alone.

pycocotools would encode one mask after another, a thousand labels as a thousand images; here one pass over the runs of
the label map serves all labels. The strings are those of pycocotools to the byte, and its ``mask.decode`` reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BITS, _MORE, _SIGN, _FIRST_CHARACTER = 5, 0x20, 0x10, 48
"""Of a character: bits of the number, one says that more follow, the highest of them is the sign; all from ``"0"``."""
CATEGORY_OF_LABEL_0 = 1
"""Category 0 is background to much that reads COCO files."""


def label_annotations(labels: NDArray[np.int32], *, image_id: int = 1, first_id: int = 1) -> list[dict[str, Any]]:
    """One annotation for each label of ``labels``, ready for JSON.

    Args:
        labels: ``[H, W]``; pixels below 0 belong to nothing.
        image_id: of the image that they are annotations of.
        first_id: of the first annotation; the others follow. COCO's own evaluation takes an id of 0 for no match.

    Returns:
        In the order of the labels: ``segmentation`` (compressed run lengths, column by column), ``area`` in pixels,
        ``bbox`` (x, y, width, height), ``category_id`` (the label + 1) and, beside what COCO knows, ``label``.
    """
    height, width = labels.shape
    columns = labels.T.ravel()
    starts = np.concatenate([[0], np.flatnonzero(columns[1:] != columns[:-1]) + 1])
    ends = np.append(starts[1:], columns.size)
    of_label = columns[starts]
    order = np.argsort(of_label, kind="stable")
    order = order[np.searchsorted(of_label[order], 0) :]
    if order.size == 0:
        return []
    starts, ends, of_label = starts[order], ends[order], of_label[order]
    first_run = np.flatnonzero(np.diff(of_label, prepend=-1))  # of each label
    texts = _run_length_texts(starts, ends, first_run, columns.size)
    areas = np.add.reduceat(ends - starts, first_run).tolist()
    boxes = _boxes(starts, ends, first_run, height).tolist()
    return [
        {
            "id": first_id + k,
            "image_id": image_id,
            "category_id": label + CATEGORY_OF_LABEL_0,
            "label": label,
            "segmentation": {"size": [height, width], "counts": texts[k]},
            "area": areas[k],
            "bbox": boxes[k],
            "iscrowd": 0,
        }
        for k, label in enumerate(of_label[first_run].tolist())
    ]


def label_categories(palette: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """One category for each label, uint8 ``[n_labels, 3]``: its name is the number of the label."""
    return [
        {"id": label + CATEGORY_OF_LABEL_0, "name": str(label), "supercategory": "label", "color": colour}
        for label, colour in enumerate(palette.tolist())
    ]


def _boxes(
    starts: NDArray[np.int64], ends: NDArray[np.int64], first_run: NDArray[np.int64], height: int
) -> NDArray[np.int64]:
    """x, y, width and height around the runs of each label, ``[labels, 4]``."""
    left, right = starts // height, (ends - 1) // height
    whole_columns = left != right  # a run that goes on in the next column has been at the bottom and at the top
    top = np.where(whole_columns, 0, starts % height)
    bottom = np.where(whole_columns, height - 1, (ends - 1) % height)
    x, y = np.minimum.reduceat(left, first_run), np.minimum.reduceat(top, first_run)
    return np.stack(
        [x, y, np.maximum.reduceat(right, first_run) + 1 - x, np.maximum.reduceat(bottom, first_run) + 1 - y], axis=-1
    )


def _run_length_texts(
    starts: NDArray[np.int64], ends: NDArray[np.int64], first_run: NDArray[np.int64], pixels: int
) -> list[str]:
    """The compressed run lengths of each label: pixels without it, pixels with it, and so on.

    Args:
        starts: of the runs of all labels, label after label.
        ends: one more than the last pixel of each run.
        first_run: where the runs of each label begin.
        pixels: of the image.
    """
    last_run = np.append(first_run[1:], len(starts)) - 1
    has_rest = ends[last_run] < pixels  # pixels after its last run
    rests_before = np.concatenate([[0], np.cumsum(has_rest)])
    runs_in_label = last_run - first_run + 1
    place = 2 * np.arange(len(starts)) + np.repeat(rests_before[:-1], runs_in_label)
    before = np.concatenate([[0], ends[:-1]])
    before[first_run] = 0
    lengths = np.empty(2 * len(starts) + rests_before[-1], np.int64)
    lengths[place], lengths[place + 1] = starts - before, ends - starts
    lengths[place[last_run[has_rest]] + 2] = pixels - ends[last_run[has_rest]]
    begin = place[first_run]
    position = np.arange(len(lengths)) - np.repeat(begin, np.diff(np.append(begin, len(lengths))))
    changes = lengths.copy()  # from the third on, the change against the last but one is the smaller number
    later = np.flatnonzero(position > 2)
    changes[later] -= lengths[later - 2]
    characters, ends_of_numbers = _characters(changes)
    cuts = [0, *ends_of_numbers[np.append(begin[1:], len(lengths)) - 1].tolist()]
    return [characters[cuts[k] : cuts[k + 1]] for k in range(len(begin))]


def _characters(numbers: NDArray[np.int64]) -> tuple[str, NDArray[np.int64]]:
    """Signed numbers in groups of five bits, the lowest first; and where each number ends in the text."""
    groups, rest = [], numbers
    going_on = np.ones(len(numbers), np.bool_)
    written = []
    while going_on.any():
        bits = rest & ((1 << _BITS) - 1)
        rest = rest >> _BITS
        more = np.where(bits & _SIGN, rest != -1, rest != 0)
        groups.append(((bits | np.where(more, _MORE, 0)) + _FIRST_CHARACTER).astype(np.uint8))
        written.append(going_on)
        going_on = going_on & more
    in_text = np.stack(written, axis=-1)
    text = np.stack(groups, axis=-1)[in_text].tobytes().decode("ascii")
    return text, np.cumsum(in_text.sum(axis=-1))
