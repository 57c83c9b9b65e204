"""The names and constants of the dynamic weights; nothing here needs torch."""

from __future__ import annotations

import math
from typing import Literal, get_args

Weighting = Literal["fsf", "scf", "fixed"]
"""How the number of labels still alive, K, weights continuity against similarity:

- ``"fsf"``, feature similarity focus: ``K / mu``; as labels merge, continuity fades.
- ``"scf"``, spatial continuity focus: ``mu / K``; as labels merge, continuity grows.
- ``"fixed"``: ``mu``, whatever K is (Kim, Kanezaki, Tanaka, IEEE TIP 2020).

The first two are from "A Dynamically Weighted Loss Function for Unsupervised Image Segmentation" (arXiv 2403.11266)
and DynaSeg (arXiv 2405.05477). The first published script had their names swapped; its authors corrected them in
October 2024, and these are the corrected names.
"""

WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)

DEFAULT_MU: dict[Weighting, float] = {"fsf": 15.0, "scf": 50.0, "fixed": 1.0}
"""The published constant of each weighting."""


def checked_mu(weighting: str, mu: float | None) -> float:
    """``mu``, or the published constant where it is None.

    Raises:
        TypeError: mu is no number.
        ValueError: there is no such weighting, or mu is not finite and > 0.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting {weighting!r}: choose one of {', '.join(WEIGHTINGS)}")
    if mu is None:
        return DEFAULT_MU[weighting]
    if isinstance(mu, bool) or not isinstance(mu, (int, float)):
        raise TypeError(f"mu is {mu!r}: pass a number")
    mu = float(mu)
    if not (mu > 0 and math.isfinite(mu)):
        raise ValueError(f"mu is {mu}: pass a finite number > 0")
    return mu
