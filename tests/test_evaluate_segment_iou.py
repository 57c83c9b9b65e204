"""The per-segment IoU: by hand, its properties, and the scores that are known for Felzenszwalb's method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from skimage.segmentation import felzenszwalb

from dynamicseg.evaluate import ImagePair, open_dataset
from dynamicseg.evaluate.segment_iou import SegmentIoU
from dynamicseg.io import read_image
from dynamicseg.partition import connected_components

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
ANNOTATED = SHAPES.flatmap(
    lambda shape: st.lists(hnp.arrays(np.int32, shape, elements=st.integers(0, 3)), min_size=2, max_size=4)
)


def score(prediction: ArrayLike, *annotators: ArrayLike, ignore_label: int | None = None) -> dict[str, float]:
    scores = SegmentIoU()
    scores.add(ImagePair(np.array(prediction), [np.array(each) for each in annotators], ignore_label=ignore_label))
    return scores.result()


def test_by_hand() -> None:
    # The left segment has 2 of 3 pixels of region 0; the right one is half of region 1's four.
    found = score([[0, 0, 0, 1, 1, 1, 1]], [[1, 1, 2, 2, 2, 3, 3]])
    assert found["all"] == pytest.approx((2 / 3 + 2 / 5 + 2 / 4) / 3)
    assert found["segments"] == 3


def test_a_label_counts_by_its_components() -> None:
    # As one region label 0 would have IoU 1/2 with either end.
    assert score([[0, 1, 0]], [[5, 6, 7]])["all"] == 1


def test_corners_do_not_connect() -> None:
    # The truth's segments hang together at a corner only and stay one; the prediction's fall apart.
    diagonal = [[0, 1], [1, 0]]
    assert score(diagonal, diagonal)["all"] == pytest.approx(1 / 2)


def test_fine_and_coarse_are_the_first_of_equals() -> None:
    coarse = [[[0, 0, 0, 1, 1]], [[0, 0, 1, 1, 1]]]
    fine = [[[0, 1, 1, 2, 3]], [[0, 0, 1, 2, 3]]]
    found = score([[0, 0, 1, 1, 1]], *coarse, *fine)
    assert found["coarse"] == pytest.approx(2 / 3)
    assert found["fine"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 3 + 1 / 3) / 4)
    assert found["all"] == pytest.approx((2 / 3 + 2 / 3 + 1 + 1 + 3 / 2 + 2) / 12)


def test_pools_segments_of_all_images() -> None:
    scores = SegmentIoU()
    first = scores.add(ImagePair(np.array([[0, 0]]), [np.array([[0, 0]])]))
    second = scores.add(ImagePair(np.array([[0, 0]]), [np.array([[0, 1]])]))
    assert (first["all"], second["all"]) == (1, 1 / 2)
    assert scores.result()["all"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)


def test_ignored_pixels_are_no_segment_and_in_no_union() -> None:
    assert score([[0, 0, 0, 1]], [[7, 7, 9, 8]], ignore_label=9) == {"all": 1, "fine": 1, "coarse": 1, "segments": 2}


@given(ANNOTATED)
def test_bounds_and_order(maps: list[NDArray[np.int32]]) -> None:
    found = score(maps[0], *maps[1:])
    assert all(0 < found[name] <= 1 for name in ("all", "fine", "coarse"))
    assert found["segments"] == sum(len(np.unique(each)) for each in maps[1:])


@given(ANNOTATED)
def test_perfect_prediction(maps: list[NDArray[np.int32]]) -> None:
    connected = connected_components(maps[0])
    assert score(connected, connected)["all"] == 1


@given(ANNOTATED, st.permutations(range(4)), st.permutations(range(4)))
def test_numbers_of_labels_mean_nothing(
    maps: list[NDArray[np.int32]], of_labels: list[int], of_truth: list[int]
) -> None:
    renamed = [np.array(of_truth)[each] for each in maps[1:]]
    assert score(np.array(of_labels)[maps[0]] - 2, *renamed) == pytest.approx(score(maps[0], *maps[1:]))


@given(ANNOTATED)
def test_equals_the_definition(maps: list[NDArray[np.int32]]) -> None:
    components = connected_components(maps[0])
    regions = [components == k for k in range(int(components.max()) + 1)]
    best = []
    for truth in maps[1:]:
        for number in np.unique(truth):
            segment = truth == number
            best.append(max((region & segment).sum() / (region | segment).sum() for region in regions))
    assert score(maps[0], *maps[1:])["all"] == pytest.approx(np.mean(best))


@pytest.mark.dataset
@pytest.mark.parametrize(
    ("scale", "all_", "fine", "coarse"),
    [(100, 0.346, None, None), (200, 0.352, 0.320, 0.391), (300, 0.340, None, None)],
)
def test_known_scores_of_felzenszwalb(
    dataset: Callable[[str], Path], scale: int, all_: float, fine: float | None, coarse: float | None
) -> None:
    """On 20 images of val, every fifth by name; known to three digits from an implementation of its own."""
    opened = open_dataset(dataset("bsds500"), "bsds500", split="val")
    scores = SegmentIoU()
    for item in opened.items[::5]:
        assert item.image is not None
        labels = felzenszwalb(read_image(item.image), scale=scale, sigma=0.8, min_size=100)
        scores.add(ImagePair(labels, opened.annotators(item)))
    found = scores.result()
    assert found["all"] == pytest.approx(all_, abs=6e-4)
    for name, known in (("fine", fine), ("coarse", coarse)):
        assert known is None or found[name] == pytest.approx(known, abs=6e-4)
