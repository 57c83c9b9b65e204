"""Boundary precision and recall: by hand, and their properties."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dynamicseg.evaluate import ImagePair
from dynamicseg.evaluate.boundaries import Boundaries, boundary_pixels

MAPS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=7).flatmap(
    lambda shape: st.lists(hnp.arrays(np.int32, shape, elements=st.integers(0, 2)), min_size=2, max_size=3)
)


def columns(*starts: int, height: int = 10, width: int = 30) -> NDArray[np.int64]:
    """Vertical stripes; each begins at one of the columns, the first at 0."""
    marks = np.zeros(width, int)
    marks[list(starts)] = 1
    return np.tile(np.cumsum(marks), (height, 1))


def test_boundary_pixels_are_one_wide() -> None:
    found = boundary_pixels(np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]]))
    assert found.tolist() == [[False, True, False], [True, True, True], [False, False, False]]


def test_nothing_is_known_across_pixels_that_are_not_valid() -> None:
    labels = np.array([[0, 255, 1, 2]])
    assert boundary_pixels(labels, labels != 255).tolist() == [[False, False, True, False]]


def test_tolerance_is_a_share_of_the_diagonal() -> None:
    two_off = ImagePair(columns(10), [columns(12)])
    diagonal = np.hypot(10, 30)
    assert Boundaries(2.01 / diagonal).add(two_off) == {"precision": 1, "recall": 1, "f": 1}
    assert Boundaries(1.99 / diagonal).add(two_off) == {"precision": 0, "recall": 0, "f": 0}


def test_by_hand() -> None:
    found = Boundaries(0).add(ImagePair(columns(10, 20), [columns(5), columns(10), columns(10, 5)]))
    assert found["precision"] == pytest.approx(1 / 2)  # 10 is right, by two of them; 20 is not
    assert found["recall"] == pytest.approx(2 / 4)  # of 5, 10, 10 and 5
    assert found["f"] == pytest.approx(1 / 2)


def test_sums_over_images() -> None:
    scores = Boundaries(0)
    scores.add(ImagePair(columns(10), [columns(10)]))
    scores.add(ImagePair(columns(1, 2, 3), [columns(20)]))
    found = scores.result()
    assert found["precision"] == pytest.approx(1 / 4)
    assert found["recall"] == pytest.approx(1 / 2)
    assert found["f"] == pytest.approx(2 / (4 + 2))


def test_without_boundaries() -> None:
    assert Boundaries().add(ImagePair(columns(), [columns()])) == {"precision": 1, "recall": 1, "f": 1}
    assert Boundaries().add(ImagePair(columns(), [columns(5)])) == {"precision": 0, "recall": 0, "f": 0}
    assert Boundaries().add(ImagePair(columns(5), [columns()])) == {"precision": 0, "recall": 0, "f": 0}


def test_predictions_on_ignored_pixels_are_not_judged() -> None:
    truth = columns(10)
    truth[:, 15:] = 255
    pair = ImagePair(columns(10, 20), [truth], ignore_label=255)
    assert Boundaries(0).add(pair) == {"precision": 1, "recall": 1, "f": 1}


@given(MAPS)
def test_bounds(maps: list[NDArray[np.int32]]) -> None:
    found = Boundaries().add(ImagePair(maps[0], maps[1:]))
    assert all(0 <= value <= 1 for value in found.values())


@given(MAPS)
def test_perfect(maps: list[NDArray[np.int32]]) -> None:
    assert Boundaries().add(ImagePair(2 - maps[0], [maps[0]])) == {"precision": 1, "recall": 1, "f": 1}


@given(MAPS, st.floats(0, 1))
def test_exchange_of_two_maps_exchanges_precision_and_recall(maps: list[NDArray[np.int32]], tolerance: float) -> None:
    there = Boundaries(tolerance).add(ImagePair(maps[0], [maps[1]]))
    back = Boundaries(tolerance).add(ImagePair(maps[1], [maps[0]]))
    assert (there["precision"], there["recall"]) == (back["recall"], back["precision"])
    assert there["f"] == pytest.approx(back["f"])


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_refuses_a_tolerance(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        Boundaries(tolerance)
