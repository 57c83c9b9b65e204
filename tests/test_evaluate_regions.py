"""Covering, Rand index and variation of information: by hand, against other implementations, and their properties."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from skimage.metrics import variation_of_information as skimage_vi

from dynamicseg.evaluate import ImagePair, open_dataset
from dynamicseg.evaluate.overlaps import Overlaps, overlaps
from dynamicseg.evaluate.regions import Regions, covering, rand_index, variation_of_information
from dynamicseg.partition import partition

PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.int32, shape, elements=st.integers(0, 3)) for _ in range(2)])
)
Pair = tuple[NDArray[np.int32], NDArray[np.int32]]


def of(first: ArrayLike, second: ArrayLike) -> Overlaps:
    return overlaps(partition(np.array(first)), partition(np.array(second)))


class TestByHand:
    def test_covering_weighs_by_area(self) -> None:
        # Segment 1, 3 pixels: 2/3. Segment 2, 1 pixel: 1/2.
        assert covering(of([0, 0, 1, 1], [1, 1, 1, 2])) == pytest.approx((3 * 2 / 3 + 1 * 1 / 2) / 4)

    def test_covering_is_of_the_truth(self) -> None:
        assert covering(of([0, 0, 0, 0], [1, 1, 1, 2])) == pytest.approx((3 * 3 / 4 + 1 * 1 / 4) / 4)
        assert covering(of([1, 1, 1, 2], [0, 0, 0, 0])) == pytest.approx(3 / 4)

    def test_rand_index_counts_pairs(self) -> None:
        # Of six pairs, (0,1) is joined in both and (0,3), (1,3) are divided in both.
        assert rand_index(of([0, 0, 1, 1], [1, 1, 1, 2])) == pytest.approx(3 / 6)

    def test_rand_index_of_one_pixel(self) -> None:
        assert rand_index(of([0], [4])) == 1

    def test_variation_of_information_is_in_bits(self) -> None:
        # Either map is one bit, and neither tells anything about the other.
        assert variation_of_information(of([0, 0, 1, 1], [0, 1, 0, 1])) == pytest.approx(2)
        assert variation_of_information(of([0, 0, 0, 0], [0, 0, 1, 1])) == pytest.approx(1)


class TestProperties:
    @given(PAIRS)
    def test_bounds(self, maps: Pair) -> None:
        found = of(*maps)
        assert 0 < covering(found) <= 1
        assert 0 <= rand_index(found) <= 1
        assert 0 <= variation_of_information(found) <= 2 * np.log2(maps[0].size) + 1e-9

    @given(PAIRS)
    def test_perfect(self, maps: Pair) -> None:
        found = of(maps[0], 3 - maps[0])  # the same regions under other numbers
        assert covering(found) == pytest.approx(1)
        assert rand_index(found) == 1
        assert variation_of_information(found) == pytest.approx(0, abs=1e-9)

    @given(PAIRS)
    def test_symmetry(self, maps: Pair) -> None:
        there, back = of(maps[0], maps[1]), of(maps[1], maps[0])
        assert rand_index(there) == pytest.approx(rand_index(back))
        assert variation_of_information(there) == pytest.approx(variation_of_information(back))

    @given(PAIRS)
    def test_variation_of_information_as_scikit_image_has_it(self, maps: Pair) -> None:
        assert variation_of_information(of(*maps)) == pytest.approx(sum(skimage_vi(*maps)), abs=1e-9)

    @given(PAIRS)
    def test_rand_index_as_defined(self, maps: Pair) -> None:
        first, second = (labels.ravel() for labels in maps)
        assume(first.size > 1)
        above = np.triu_indices(first.size, 1)
        same = [(labels[:, None] == labels[None, :])[above] for labels in (first, second)]
        assert rand_index(of(*maps)) == pytest.approx(np.mean(same[0] == same[1]))

    @given(*[hnp.arrays(np.int32, (1, 9), elements=st.integers(0, 3))] * 2)
    def test_labels_are_as_components_where_they_are_connected(
        self, prediction: NDArray[np.int32], truth: NDArray[np.int32]
    ) -> None:
        found = Regions().add(ImagePair(np.sort(prediction), [truth]))
        for name in ("covering", "rand_index", "variation_of_information"):
            assert found[name] == pytest.approx(found[f"{name}_of_labels"])


class TestRegions:
    def test_components_and_labels_are_told_apart(self) -> None:
        found = Regions().add(ImagePair(np.array([[0, 1, 0]]), [np.array([[5, 6, 7]])]))
        assert found["covering"] == 1
        assert found["covering_of_labels"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
        assert found["rand_index"] == 1
        assert found["rand_index_of_labels"] == pytest.approx(2 / 3)

    def test_means_over_annotators_then_images_and_pooled(self) -> None:
        scores = Regions()
        blank = np.zeros((1, 2), int)
        halves = np.array([[0, 1]])
        assert scores.add(ImagePair(blank, [blank, blank, halves]))["covering"] == pytest.approx((1 + 1 + 1 / 2) / 3)
        assert scores.add(ImagePair(blank, [halves]))["covering"] == pytest.approx(1 / 2)
        found = scores.result()
        assert found["covering"] == pytest.approx((5 / 6 + 1 / 2) / 2)
        assert found["covering_pooled"] == pytest.approx((1 + 1 + 1 / 2 + 1 / 2) / 4)

    def test_larger_images_weigh_more_in_pooled(self) -> None:
        scores = Regions()
        scores.add(ImagePair(np.zeros((1, 6), int), [np.zeros((1, 6), int)]))
        scores.add(ImagePair(np.zeros((1, 2), int), [np.array([[0, 1]])]))
        assert scores.result()["covering"] == pytest.approx(3 / 4)
        assert scores.result()["covering_pooled"] == pytest.approx((6 + 2 * 1 / 2) / 8)


@pytest.mark.dataset
def test_people_against_each_other(dataset: Callable[[str], Path]) -> None:
    """Arbelaez et al. 2011, table 2, give for people on the test images covering 0.72, PRI 0.88 and VI 1.17."""
    opened = open_dataset(dataset("bsds500"), "bsds500", split="val")
    scores = Regions()
    for item in opened.items[::2]:
        maps = opened.annotators(item)
        for k, one in enumerate(maps):
            scores.add(ImagePair(one, maps[:k] + maps[k + 1 :]))
    found = scores.result()
    assert found["covering"] == pytest.approx(0.72, abs=0.03)
    assert found["rand_index"] == pytest.approx(0.88, abs=0.03)
    assert found["variation_of_information"] == pytest.approx(1.17, abs=0.12)  # in nats it would be 0.81
