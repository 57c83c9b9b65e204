"""Partitions, their overlaps and connected components, which all protocols stand on."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dynamicseg.evaluate import ImagePair
from dynamicseg.evaluate.overlaps import overlaps
from dynamicseg.partition import connected_components, partition

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)
MAPS = hnp.arrays(np.int32, SHAPES, elements=st.integers(-2, 4))
PAIRS = SHAPES.flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.int32, shape, elements=st.integers(0, 4)) for _ in range(2)])
)
FAR_APART = st.sampled_from([-(2**31), -5, 0, 7, 2**31 - 1])


class TestPartition:
    @given(st.one_of(MAPS, hnp.arrays(np.int32, SHAPES, elements=FAR_APART)))
    def test_says_what_numpy_unique_says(self, labels: NDArray[np.int32]) -> None:
        found = partition(labels)
        numbers, part, areas = np.unique(labels, return_inverse=True, return_counts=True)
        np.testing.assert_array_equal(found.numbers, numbers)
        np.testing.assert_array_equal(found.part, part.ravel())
        np.testing.assert_array_equal(found.areas, areas)

    @pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int64", "uint32"])
    def test_integer_types(self, dtype: str) -> None:
        found = partition(np.array([[1, 0], [1, 1]], dtype))
        assert found.numbers.tolist() == [0, 1]
        assert found.areas.tolist() == [1, 3]


class TestOverlaps:
    def test_by_hand(self) -> None:
        found = overlaps(partition(np.array([[0, 0, 5]])), partition(np.array([[1, 2, 2]])))
        assert found.region.tolist() == [0, 0, 1]
        assert found.segment.tolist() == [0, 1, 1]
        assert found.pixels.tolist() == [1, 1, 1]
        assert found.best_iou.tolist() == [1 / 2, 1 / 2]

    @given(PAIRS)
    def test_are_all_pairs_of_labels(self, maps: tuple[NDArray[np.int32], NDArray[np.int32]]) -> None:
        first, second = maps
        found = overlaps(partition(first), partition(second))
        listed = zip(
            found.regions.numbers[found.region], found.segments.numbers[found.segment], found.pixels, strict=True
        )
        expected = {
            (int(a), int(b)): int(np.count_nonzero((first == a) & (second == b)))
            for a, b in zip(first.ravel(), second.ravel(), strict=True)
        }
        assert {(int(a), int(b)): int(n) for a, b, n in listed} == expected

    def test_many_parts_of_both_maps_make_no_large_table(self) -> None:
        every_pixel = partition(np.arange(90_000))
        found = overlaps(every_pixel, every_pixel)  # as a table 65 GB
        assert (found.pixels == 1).all()
        assert (found.best_iou == 1).all()


class TestConnectedComponents:
    def test_by_hand(self) -> None:
        labels = np.array([[0, 1, 0], [1, 1, 0], [0, 1, 2]])
        found = connected_components(labels)
        assert found.tolist() == [[0, 1, 2], [1, 1, 2], [3, 1, 4]]

    @given(MAPS)
    def test_divide_labels_and_join_neighbours(self, labels: NDArray[np.int32]) -> None:
        found = connected_components(labels)
        assert found.min() == 0
        for component in range(int(found.max()) + 1):
            assert len(np.unique(labels[found == component])) == 1
        for here, there in ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1])):
            np.testing.assert_array_equal(labels[here] == labels[there], found[here] == found[there])


class TestImagePair:
    def test_ignored_pixels_are_left_out(self) -> None:
        pair = ImagePair(np.array([[0, 0, 1]]), [np.array([[3, 255, 3]])], ignore_label=255)
        (found,) = pair.label_overlaps
        assert found.pixels.tolist() == [1, 1]
        assert found.segments.numbers.tolist() == [3]
        assert pair.is_labelled

    def test_components_are_those_of_the_whole_image(self) -> None:
        pair = ImagePair(np.array([[0, 0, 0]]), [np.array([[1, 255, 1]])], ignore_label=255)
        assert len(pair.component_overlaps[0].regions) == 1

    def test_only_ignored_pixels(self) -> None:
        assert not ImagePair(np.zeros((1, 2), int), [np.full((1, 2), 255)], ignore_label=255).is_labelled

    @pytest.mark.parametrize(
        ("prediction", "annotators", "text"),
        [
            (np.zeros((2, 2), int), [], "no annotator"),
            (np.zeros((2, 3), int), [np.zeros((2, 2), int)], "prediction is 3x2, truth is 2x2"),
            (np.zeros((0, 2), int), [np.zeros((0, 2), int)], "at least one pixel"),
            (np.zeros(4, int), [np.zeros(4, int)], "want \\[H, W\\]"),
        ],
    )
    def test_refuses(self, prediction: NDArray[Any], annotators: list[NDArray[Any]], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            ImagePair(prediction, annotators)

    def test_refuses_floating_point(self) -> None:
        with pytest.raises(TypeError, match="truth has dtype float64"):
            ImagePair(np.zeros((1, 1), int), [np.zeros((1, 1))])
