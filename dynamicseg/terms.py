"""The names and constants of the loss's optional terms, all of them off by default; nothing here needs torch."""

from __future__ import annotations

import math
from typing import Literal, get_args

Continuity = Literal["l1", "huber"]
"""What the difference ``t`` of two neighbours counts in the continuity:

- ``"l1"``: ``|t|``, the published one.
- ``"huber"``: ``t^2 / 2`` for ``|t| < 1``, ``|t| - 1/2`` beyond (DynaGuide, arXiv 2602.13020).
"""

CONTINUITIES: tuple[Continuity, ...] = get_args(Continuity)

SCRIBBLE_WEIGHT = 0.5
"""What the cross-entropy with scribbles counts beside the similarity of the other pixels (Kim et al. 2020)."""

DEFAULT_SCRIBBLE_NONE = 255
"""What stands for "nothing was drawn here" in a scribble image."""

NO_LABEL = -1
"""In a map of scribbles: nothing was drawn here; in a guide: any label will do; in a label map: masked."""


def checked_continuity(continuity: str) -> Continuity:
    """``continuity``.

    Raises:
        ValueError: there is none of that name.
    """
    for known in CONTINUITIES:
        if continuity == known:
            return known
    raise ValueError(f"continuity {continuity!r}: choose one of {', '.join(CONTINUITIES)}")


def checked_label_floor(label_floor: int) -> int:
    """``label_floor``.

    Raises:
        TypeError: it is no integer.
        ValueError: it is less than 1.
    """
    if isinstance(label_floor, bool) or not isinstance(label_floor, int):
        raise TypeError(f"label_floor is {label_floor!r}: pass an integer >= 1, the least number of labels to count")
    if label_floor < 1:
        raise ValueError(f"label_floor is {label_floor}: pass an integer >= 1, the least number of labels to count")
    return label_floor


def checked_guide_weight(guide_weight: float) -> float:
    """``guide_weight`` where it is a number.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite and >= 0.
    """
    if isinstance(guide_weight, bool) or not isinstance(guide_weight, (int, float)):
        raise TypeError(f"guide_weight is {guide_weight!r}: pass a number >= 0, or a tensor [B] of them")
    if not (guide_weight >= 0 and math.isfinite(guide_weight)):
        raise ValueError(f"guide_weight is {guide_weight}: pass a finite number >= 0")
    return float(guide_weight)
