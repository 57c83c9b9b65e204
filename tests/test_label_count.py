"""Label maps brought to a number of labels: merging against naive merging and SciPy, splitting by its promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, ward

from dynamicseg.label_count import PixelFeatures, _ward_merges, with_label_count

Labels = NDArray[np.int64]


def numbered(labels: NDArray[Any]) -> Labels:
    """From 0 without gaps."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int64)


def random_case(seed: int, height: int, width: int, count: int, bands: int = 3) -> tuple[Labels, PixelFeatures]:
    random = np.random.default_rng(seed)
    colours = (random.random((height, width, bands)) * 100).astype(np.float32)
    network_labels = 7 * random.integers(0, 4, (height, width)) - 3
    return numbered(random.integers(0, count, (height, width))), PixelFeatures(colours, network_labels)


def explicit(colours: NDArray[np.float32], network_labels: NDArray[Any]) -> NDArray[np.float64]:
    """``[H * W, D + K]``: the features as their description has them."""
    one_hot = np.stack([network_labels == number for number in np.unique(network_labels)], axis=2)
    together = np.concatenate([colours.astype(np.float64) / 20, one_hot / np.sqrt(2)], axis=2)
    return together.reshape(-1, together.shape[2])


def same_partition(first: NDArray[Any], second: NDArray[Any]) -> bool:
    pairs = set(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(first)) == len(np.unique(second))


def refines(fine: Labels, coarse: Labels) -> bool:
    return len(set(zip(fine.ravel().tolist(), coarse.ravel().tolist(), strict=True))) == len(np.unique(fine))


def naive_merges(features: NDArray[np.float64], labels: Labels, most: int) -> Labels:
    """Each time, the sum of squared distances from the means is computed for every pair there is to merge."""
    labels = labels.ravel().copy()

    def spread(mask: NDArray[np.bool_]) -> float:
        return float(np.square(features[mask] - features[mask].mean(axis=0)).sum())

    while len(numbers := np.unique(labels).tolist()) > most:
        _, first, second = min(
            (spread((labels == a) | (labels == b)) - spread(labels == a) - spread(labels == b), a, b)
            for a in numbers
            for b in numbers
            if a < b
        )
        labels[labels == second] = first
    return labels


class TestFeatures:
    def test_two_labels_of_the_network_are_1_apart_and_so_are_colours_20_apart(self) -> None:
        colours = np.zeros((1, 3, 3), np.float32)
        colours[0, 2, 0] = 20
        features = PixelFeatures(colours, np.array([[5, -1, 5]])).of(np.arange(3))
        distances = np.linalg.norm(features[:, None] - features[None], axis=2)
        np.testing.assert_allclose(distances, [[0, 1, 1], [1, 0, np.sqrt(2)], [1, np.sqrt(2), 0]])

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 10**6), bands=st.sampled_from([1, 2, 4, 13]))
    def test_distances_of_a_few_pixels_and_means_are_those_of_the_explicit_features(
        self, seed: int, bands: int
    ) -> None:
        random = np.random.default_rng(seed)
        colours = (random.random((5, 6, bands)) * 100).astype(np.float32)
        network_labels = random.integers(-2, 3, (5, 6))
        features, expected = PixelFeatures(colours, network_labels), explicit(colours, network_labels)

        def squared_distances(rows: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(np.square(rows[:, None] - rows[None]).sum(axis=2))

        pixels = random.choice(30, random.integers(1, 31), replace=False)
        found = squared_distances(features.of(pixels))
        np.testing.assert_allclose(found, squared_distances(expected[pixels]), atol=1e-5)
        labels = numbered(random.integers(0, 5, (5, 6)))
        means = [expected[labels.ravel() == label].mean(axis=0) for label in range(labels.max() + 1)]
        np.testing.assert_allclose(features.means(labels), means, atol=1e-5)


class TestBounds:
    @settings(max_examples=60, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        height=st.integers(1, 9),
        width=st.integers(1, 9),
        count=st.integers(1, 30),
        share=st.floats(0, 1),
    )
    def test_any_number_of_labels_comes_out_exactly(
        self, seed: int, height: int, width: int, count: int, share: float
    ) -> None:
        labels, features = random_case(seed, height, width, count)
        wanted = 1 + round(share * (height * width - 1))
        before = labels.copy()
        found = with_label_count(labels, features, wanted, wanted)
        assert np.array_equal(np.unique(found), np.arange(wanted))
        assert np.array_equal(labels, before)
        assert refines(found, labels) or refines(labels, found)
        assert np.array_equal(found, with_label_count(labels, features, wanted, wanted))

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 12), (12, 1), (3, 4)])
    @pytest.mark.parametrize("varied", [False, True])
    def test_each_pixel_can_be_a_label(self, height: int, width: int, varied: bool) -> None:
        colours = np.zeros((height, width, 3), np.float32)
        if varied:
            colours[..., 0] = np.arange(height * width).reshape(height, width) // 3
        features = PixelFeatures(colours, np.zeros((height, width), np.int64))
        found = with_label_count(np.zeros((height, width), np.int64), features, height * width, None)
        assert sorted(found.ravel().tolist()) == list(range(height * width))

    @settings(max_examples=40, deadline=None)
    @given(
        seed=st.integers(0, 10**6),
        least=st.none() | st.integers(1, 12),
        more=st.none() | st.integers(0, 12),
    )
    def test_the_number_is_the_nearest_within_the_bounds(self, seed: int, least: int | None, more: int | None) -> None:
        labels, features = random_case(seed, 5, 8, 9)
        most = None if more is None else (least or 1) + more
        found = with_label_count(labels, features, least, most)
        count = int(labels.max()) + 1
        expected = min(max(count, least or 1), most or 40)
        assert found.max() + 1 == expected
        if expected == count:
            assert found is labels


class TestMerging:
    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10**6), most=st.integers(1, 10))
    def test_labels_are_merged_as_naive_greedy_merging_does(self, seed: int, most: int) -> None:
        random = np.random.default_rng(seed)
        colours = (random.random((6, 7, 3)) * 100).astype(np.float32)
        network_labels = random.integers(0, 3, (6, 7))
        labels = numbered(random.integers(0, 12, (6, 7)))
        found = with_label_count(labels, PixelFeatures(colours, network_labels), None, most)
        assert same_partition(found, naive_merges(explicit(colours, network_labels), labels, most))

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10**6), points=st.integers(2, 60), dimensions=st.sampled_from([1, 3, 20]))
    def test_points_of_equal_weight_are_merged_as_scipy_does(self, seed: int, points: int, dimensions: int) -> None:
        means = np.random.default_rng(seed).random((points, dimensions))
        merges = _ward_merges(means, np.ones(points))
        linkage = ward(means)
        # SciPy's height is the root of twice the criterion.
        np.testing.assert_allclose(sorted(merge[0] for merge in merges), np.square(linkage[:, 2]) / 2, rtol=1e-7)
        labels = np.arange(points)[None]
        features = PixelFeatures((means * 20).astype(np.float32)[None], labels * 0)
        for most in (1, 2, (points + 1) // 2, points):
            found = with_label_count(labels, features, None, most)
            assert same_partition(found, fcluster(linkage, most, "maxclust"))

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10**6), most=st.integers(1, 30))
    def test_equal_features_merge_to_any_number(self, seed: int, most: int) -> None:
        # Ties everywhere: few different colours, and areas in all sizes.
        random = np.random.default_rng(seed)
        colours = random.integers(0, 2, (6, 8, 1)).astype(np.float32)
        labels = numbered(random.integers(0, 40, (6, 8)))
        found = with_label_count(labels, PixelFeatures(colours, labels * 0), None, most)
        assert np.array_equal(np.unique(found), np.arange(min(most, labels.max() + 1)))
        assert refines(labels, found)

    def test_regions_merge_wherever_they_lie(self) -> None:
        colours = np.tile(np.array([0, 50, 0.5, 50.5], np.float32), (2, 1))[..., None]
        labels = np.tile(np.arange(4), (2, 1))
        found = with_label_count(labels, PixelFeatures(colours, labels * 0), None, 2)
        assert found.tolist() == [[0, 1, 0, 1]] * 2


class TestSplitting:
    def test_the_most_varied_label_is_split_between_its_two_colours(self) -> None:
        # Label 0: two colours far apart; label 1: larger, but nearly of one colour.
        colours = np.array([[0, 90, 0, 90, 50, 51, 50, 51, 50, 51]], np.float32)[..., None]
        labels = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]])
        found = with_label_count(labels, PixelFeatures(colours, labels * 0), 3, None)
        assert same_partition(found, np.array([[0, 2, 0, 2, 1, 1, 1, 1, 1, 1]]))

    def test_a_label_is_split_between_labels_of_the_network_before_slight_differences_of_colour(self) -> None:
        colours = np.array([[50, 52, 50, 52, 50, 52]], np.float32)[..., None]
        network_labels = np.array([[4, 4, 4, 9, 9, 9]])
        found = with_label_count(network_labels * 0, PixelFeatures(colours, network_labels), 2, None)
        assert same_partition(found, network_labels)

    def test_where_nothing_differs_the_largest_is_cut_in_two(self) -> None:
        labels = np.array([[0, 0, 0, 1, 1, 1, 1, 1, 1]])
        found = with_label_count(labels, PixelFeatures(np.zeros((1, 9, 2), np.float32), labels * 0), 3, None)
        assert same_partition(found, np.array([[0, 0, 0, 1, 1, 1, 2, 2, 2]]))

    def test_the_least_difference_that_float32_can_hold_is_one(self) -> None:
        colours = np.full((20, 20, 3), 97.3, np.float32)
        colours[7, 11, 1] = np.nextafter(np.float32(97.3), np.float32(100))
        labels = np.zeros((20, 20), np.int64)
        found = with_label_count(labels, PixelFeatures(colours, labels), 2, None)
        assert same_partition(found, colours[..., 1])

    def test_many_labels_take_little_time(self) -> None:
        labels, features = random_case(0, 120, 100, 3)
        found = with_label_count(labels, features, 12_000, None)  # seconds; minutes if each split looked at all labels
        assert found.max() + 1 == 12_000
