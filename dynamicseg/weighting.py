"""The names and constants of the dynamic weights; nothing here needs torch."""

from __future__ import annotations

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
