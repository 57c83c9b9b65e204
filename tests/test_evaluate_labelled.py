"""Mean IoU and accuracy of labels against classes: by hand, against all assignments, and their properties."""

from __future__ import annotations

import itertools

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dynamicseg.evaluate import ImagePair
from dynamicseg.evaluate.labelled import Labelled, Matching, hungarian, majority, scores

MATCHINGS: tuple[Matching, ...] = ("hungarian", "majority")
CONFUSIONS = hnp.arrays(
    np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=4), elements=st.integers(0, 9)
).filter(lambda confusion: bool(confusion.sum(0).all() and confusion.sum(1).all()))
MAPS = hnp.arrays(np.int32, (3, 5), elements=st.integers(0, 4))


def labelled(matching: Matching, *pairs: tuple[list[int], list[int]], ignore_label: int | None = None) -> Labelled:
    found = Labelled(matching)
    for prediction, truth in pairs:
        found.add(ImagePair(np.array([prediction]), [np.array([truth])], ignore_label=ignore_label))
    return found


def test_hungarian_by_hand() -> None:
    # Labels 7 and 8 both lie in class 1; only 7, the larger one, may have it.
    found = labelled("hungarian", ([7, 7, 7, 8, 9, 9], [1, 1, 1, 1, 2, 1])).result()
    assert found["matching"] == {"7": 1, "9": 2}
    assert found["class_iou"] == {"1": pytest.approx(3 / 5), "2": pytest.approx(1 / 2)}
    assert found["miou"] == pytest.approx((3 / 5 + 1 / 2) / 2)
    assert found["pixel_accuracy"] == pytest.approx(4 / 6)
    assert (found["labels"], found["classes"]) == (3, 2)


def test_majority_by_hand() -> None:
    found = labelled("majority", ([7, 7, 7, 8, 9, 9], [1, 1, 1, 1, 2, 1])).result()
    assert found["matching"] == {"7": 1, "8": 1, "9": 1}  # 9 is a tie, and takes the lower class
    assert found["class_iou"] == {"1": pytest.approx(5 / 6), "2": 0}
    assert found["pixel_accuracy"] == pytest.approx(5 / 6)


def test_fewer_labels_than_classes() -> None:
    found = labelled("hungarian", ([0, 0, 0, 0], [1, 1, 2, 3])).result()
    assert found["class_iou"] == {"1": 1 / 2, "2": 0, "3": 0}


@pytest.mark.parametrize("matching", MATCHINGS)
def test_labels_mean_the_same_in_all_images(matching: Matching) -> None:
    swapped = labelled(matching, ([0, 0, 1, 1], [5, 5, 6, 6]), ([1, 1, 0, 0], [5, 5, 6, 6])).result()
    assert swapped["pixel_accuracy"] == 1 / 2
    same = labelled(matching, ([0, 0, 1, 1], [5, 5, 6, 6]), ([0, 1, 2, 2], [5, 6, 7, 7])).result()
    assert same["pixel_accuracy"] == same["miou"] == 1


@pytest.mark.parametrize("matching", MATCHINGS)
def test_ignored_pixels_enter_nothing(matching: Matching) -> None:
    found = labelled(matching, ([0, 0, 1, 4, 0], [3, 3, 2, 255, 255]), ignore_label=255).result()
    assert found["miou"] == found["pixel_accuracy"] == 1
    assert (found["labels"], found["classes"]) == (2, 2)


@pytest.mark.parametrize("matching", MATCHINGS)
def test_labels_beyond_what_a_byte_holds(matching: Matching) -> None:
    found = labelled(matching, ([70_000, 70_000, 3], [1, 1, 2])).result()
    assert found["matching"] == {"3": 2, "70000": 1}


@given(CONFUSIONS)
def test_hungarian_finds_the_best_of_all_assignments(confusion: NDArray[np.int64]) -> None:
    labels, classes = confusion.shape
    if labels <= classes:
        right = [confusion[range(labels), chosen].sum() for chosen in itertools.permutations(range(classes), labels)]
    else:
        right = [confusion[chosen, range(classes)].sum() for chosen in itertools.permutations(range(labels), classes)]
    _, accuracy = scores(confusion, hungarian(confusion))
    assert accuracy == pytest.approx(max(right) / confusion.sum())


@given(CONFUSIONS)
def test_bounds_and_order(confusion: NDArray[np.int64]) -> None:
    found = [scores(confusion, match(confusion)) for match in (hungarian, majority)]
    for iou, accuracy in found:
        assert ((iou >= 0) & (iou <= 1)).all()
        assert 0 < accuracy <= 1
    assert found[1][1] >= found[0][1]


@given(MAPS, st.permutations(range(5)))
@pytest.mark.parametrize("matching", MATCHINGS)
def test_perfect_under_any_numbers(matching: Matching, truth: NDArray[np.int32], order: list[int]) -> None:
    found = Labelled(matching)
    found.add(ImagePair(np.array(order)[truth], [truth]))
    assert found.result()["miou"] == found.result()["pixel_accuracy"] == 1
