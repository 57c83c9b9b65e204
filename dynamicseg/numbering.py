"""Which numbers labels have: the largest first, or those that were drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg.partition import partition

if TYPE_CHECKING:
    from numpy.typing import NDArray


def relabel_by_area(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Number labels from 0 without gaps, the largest region first.

    Args:
        labels: integers of any shape, size and sign; the same number is the same label.

    Returns:
        int32 of the same shape. Of labels with equal area the lower old number comes first.

    Raises:
        TypeError: not integers.
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biu":
        raise TypeError(f"labels have dtype {labels.dtype}; want integers")
    found = partition(labels)
    rank = np.empty(len(found), np.int32)
    rank[np.argsort(-found.areas, kind="stable")] = np.arange(len(found), dtype=np.int32)
    return rank[found.part].reshape(labels.shape)


def final_numbers(labels: NDArray[Any], drawn: NDArray[np.int64]) -> NDArray[np.int32]:
    """The numbers that labels have in a result.

    Args:
        labels: integers ``[H, W]``; -1 where there is no data, positions in ``drawn`` for labels drawn, any higher
            number for others.
        drawn: the numbers of the labels drawn, ascending; empty where there are no scribbles.

    Returns:
        int32 ``[H, W]``: -1 where there is no data; labels drawn have the numbers that they were drawn with, and all
        others follow after the highest of these, without gaps, the largest first.
    """
    result = np.full(labels.shape, -1, np.int32)
    of_drawn, others = (labels >= 0) & (labels < len(drawn)), labels >= len(drawn)
    result[of_drawn] = drawn[labels[of_drawn]]
    result[others] = relabel_by_area(labels[others]) + (int(drawn.max()) + 1 if len(drawn) else 0)
    return result
