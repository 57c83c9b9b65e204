"""The comparison of gradients lets rounding pass and nothing else."""

from __future__ import annotations

import pytest
import torch
from gradients import GradientError, assert_gradients_close
from torch import Tensor

TOLERANCE = 1e-5


@pytest.fixture
def truth() -> Tensor:
    return torch.randn(2, 5, 7, 11, dtype=torch.float64) * 1e-6


def test_equal_gradients_have_no_error(truth: Tensor) -> None:
    assert GradientError.between(truth, truth) == GradientError(0, 0, 0, 0, ())


def test_rounding_passes(truth: Tensor) -> None:
    assert_gradients_close(truth.float(), truth, TOLERANCE)


def test_nothing_is_wrong_with_an_empty_gradient() -> None:
    assert_gradients_close(torch.empty(0, 3, 4, 5), torch.empty(0, 3, 4, 5), TOLERANCE)


def test_zero_gradient_equals_zero() -> None:
    assert_gradients_close(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), TOLERANCE)


def test_very_small_gradients_are_compared_as_well(truth: Tensor) -> None:
    assert_gradients_close(truth * 1e-200, truth * 1e-200, TOLERANCE)
    with pytest.raises(AssertionError):
        assert_gradients_close(truth * 1.001e-200, truth * 1e-200, TOLERANCE)


def test_wrong_sign_is_rejected(truth: Tensor) -> None:
    with pytest.raises(AssertionError, match="1 - cosine 2"):
        assert_gradients_close(-truth, truth, TOLERANCE)


@pytest.mark.parametrize(("scale", "bias"), [(1.001, "0.001"), (0.999, "-0.001"), (0.0, "-1")])
def test_wrong_scale_is_rejected(truth: Tensor, scale: float, bias: str) -> None:
    with pytest.raises(AssertionError, match=f"bias of norm {bias}"):
        assert_gradients_close(truth * scale, truth, TOLERANCE)


def test_one_wrong_element_is_rejected_and_named(truth: Tensor) -> None:
    wrong = truth.clone()
    wrong[1, 4, 6, 10] += 1e-4 * truth.abs().max()
    with pytest.raises(AssertionError, match=r"worst element 0\.0001; at \[1, 4, 6, 10\]"):
        assert_gradients_close(wrong, truth, TOLERANCE)


def test_two_swapped_elements_are_rejected(truth: Tensor) -> None:
    wrong = truth.clone()
    wrong[0, 0, 0, 0], wrong[0, 0, 0, 1] = truth[0, 0, 0, 1], truth[0, 0, 0, 0]
    with pytest.raises(AssertionError, match="relative L2"):
        assert_gradients_close(wrong, truth, TOLERANCE)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_rejected_and_named(truth: Tensor, poison: float) -> None:
    wrong = truth.clone()
    wrong[0, 1, 2, 3] = poison
    with pytest.raises(AssertionError, match=r"at \[0, 1, 2, 3\]"):
        assert_gradients_close(wrong, truth, TOLERANCE)


def test_something_where_nothing_should_be_is_rejected(truth: Tensor) -> None:
    with pytest.raises(AssertionError, match="worst element inf"):
        assert_gradients_close(truth, torch.zeros_like(truth), TOLERANCE)


def test_another_shape_is_rejected(truth: Tensor) -> None:
    with pytest.raises(AssertionError, match=r"shape \[2, 5, 11, 7\], expected \[2, 5, 7, 11\]"):
        assert_gradients_close(truth.transpose(2, 3), truth, TOLERANCE)
