"""Numbers of labels in an overlay: where they stand, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest

from dynamicseg.label_numbers import draw_numbers, roomiest


def test_the_roomiest_place_is_the_largest_square() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[0, :] = True  # long, but thin
    mask[8:15, 12:18] = True
    assert roomiest(mask) == (8, 12, 6)
    assert roomiest(np.eye(3, dtype=np.bool_)) == (0, 0, 1)
    assert roomiest(np.ones((4, 9), np.bool_)) == (0, 0, 4)


def changed(labels: np.ndarray, grey: int = 128) -> np.ndarray:
    """Where something is drawn."""
    picture = np.full((*labels.shape, 3), grey, np.uint8)
    drawn = draw_numbers(picture, labels)
    assert (picture == grey).all()
    assert drawn.shape == picture.shape
    assert drawn.dtype == np.uint8
    return np.asarray((drawn != grey).any(axis=2))


def test_a_number_stands_in_its_region() -> None:
    labels = np.zeros((321, 481), np.int32)
    labels[100:200, 300:400] = 7
    there = changed(labels)
    inside = there[100:200, 300:400]
    assert inside[35:65, 35:65].any()
    assert not inside[:30].any()
    assert not inside[70:].any()
    there[100:200, 300:400] = False
    assert there.any()  # the number of label 0


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 9), (3000, 40)])
def test_no_picture_is_too_small_or_too_large(size: tuple[int, int]) -> None:
    changed(np.zeros(size, np.int32))


def test_specks_stay_without_a_number() -> None:
    labels = np.zeros((321, 481), np.int32)
    whole = changed(labels)
    labels[300:303, 460:463] = 5
    np.testing.assert_array_equal(changed(labels), whole)


def test_a_number_stays_inside_of_the_picture() -> None:
    labels = np.zeros((321, 481), np.int32)
    labels[:7, :7] = 12345
    there = changed(labels)[:30, :60]
    assert there.any(axis=0).sum() > 30  # all five digits
    assert there.any(axis=1).sum() > 9
