"""Comparison of a gradient with the true one.

An absolute tolerance lets a small gradient be wrong altogether, and a relative one fails on rounding
where terms cancel. So four questions are asked: do the two point the same way (cosine), is one
longer than the other (bias), how much of it is wrong (relative L2), and which element is worst.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """Relative errors that are allowed."""

    statistic: float
    gradient: float


@dataclass(frozen=True)
class GradientError:
    """How ``actual`` differs from ``expected``; all 0 where both are equal."""

    cosine: float
    """1 - cosine of the angle between the two."""
    bias: float
    """|actual| / |expected| - 1."""
    relative_l2: float
    """|actual - expected| / |expected|."""
    worst: float
    """Largest difference of two elements, in units of the largest element of ``expected``."""
    worst_at: tuple[int, ...]

    @classmethod
    def between(cls, actual: Tensor, expected: Tensor) -> GradientError:
        """In float64. Where ``expected`` is 0 everywhere, any difference is infinite."""
        a, e = actual.detach().double().cpu(), expected.detach().double().cpu()
        if a.numel() == 0 or torch.equal(a, e):
            return cls(0.0, 0.0, 0.0, 0.0, ())
        difference = (a - e).abs()
        # argmax takes a NaN for the largest.
        worst_at = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
        largest = float(e.abs().max())
        if largest == 0:
            return cls(math.inf, math.inf, math.inf, math.inf, worst_at)
        # Scaled, so that the square of a small gradient is not 0.
        scaled, true = a / largest, e / largest
        norm, true_norm = float(scaled.norm()), float(true.norm())
        # 1 - cosine = |u - v|^2 / 2 for unit vectors, without the cancellation of 1 - u.v
        angle = float((scaled / norm - true / true_norm).norm()) ** 2 / 2 if norm > 0 else 1.0
        return cls(
            cosine=angle,
            bias=norm / true_norm - 1,
            relative_l2=float((scaled - true).norm()) / true_norm,
            worst=float(difference.max()) / largest,
            worst_at=worst_at,
        )


def assert_gradients_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Fails, with all four errors in the message, where any is above ``tolerance`` or not a number."""
    assert actual.shape == expected.shape, f"shape {list(actual.shape)}, expected {list(expected.shape)}"
    error = GradientError.between(actual, expected)
    errors = {
        "1 - cosine": error.cosine,
        "bias of norm": error.bias,
        "relative L2": error.relative_l2,
        "worst element": error.worst,
    }
    if all(abs(value) <= tolerance for value in errors.values()):
        return
    listed = ", ".join(f"{name} {value:.3g}" for name, value in errors.items())
    at = error.worst_at
    raise AssertionError(
        f"gradient is off by more than {tolerance:g}: {listed}; "
        f"at {list(at)} it is {float(actual[at]):.6g}, expected {float(expected[at]):.6g}"
    )
