"""What is known of an image besides the network, for any size, bands and values; and the number of labels asked for."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import dynamicseg as ds
from dynamicseg.config import configure
from dynamicseg.grouping import Grouping
from dynamicseg.partition import connected_components
from dynamicseg.segmenter import Segmenter
from dynamicseg.superpixels import coarser_segmentations

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::6, ::6])
VALUES = (PHOTO / np.float32(255)).astype(np.float32)
# Few and coarse enough for a small photo, and independent of the presets' numbers.
FAST: dict[str, Any] = {"superpixel_scale": 20.0, "superpixel_min_size": 5, "area_exponent": 0.8}


def one_network_label_each(grouping: Grouping) -> NDArray[np.int64]:
    assert grouping.superpixels is not None
    return grouping.superpixels % 7


class TestGrouping:
    @pytest.mark.parametrize("size", [(1, 2), (1, 50), (50, 1), (2, 2), (23, 31)])
    @pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
    @pytest.mark.parametrize("wanted", [{}, {"min_labels": 2, "max_labels": 2}], ids=["free", "2 labels"])
    def test_any_size_and_bands(self, size: tuple[int, int], bands: int, wanted: dict[str, int]) -> None:
        values = np.random.default_rng(0).random((*size, bands)).astype(np.float32)
        grouping = Grouping(values, configure("fast", **FAST, **wanted))
        labels = grouping.labels(one_network_label_each(grouping))
        assert labels.shape == size
        if wanted:
            assert labels.max() + 1 == len(np.unique(labels)) == 2

    def test_another_process_gets_the_same_in_few_bytes(self) -> None:
        grouping = Grouping(VALUES, configure("fast", **FAST))
        network_labels = one_network_label_each(grouping)
        expected = grouping.labels(network_labels)
        sent = pickle.dumps(grouping)
        assert len(sent) < 50 * VALUES.shape[0] * VALUES.shape[1]
        assert np.array_equal(pickle.loads(sent).labels(network_labels), expected)

    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0, -3.0, 1e30])
    def test_a_constant_image_is_one_superpixel_and_one_region(self, value: float) -> None:
        grouping = Grouping(np.full((12, 15, 3), value, np.float32), configure("fast", **FAST))
        assert grouping.superpixels is not None
        assert not grouping.superpixels.any()
        assert not grouping.labels(np.full((12, 15), 42)).any()

    @pytest.mark.parametrize(("factor", "offset"), [(255, 0), (1e30, 0), (2, -1), (1e-3, 7)])
    def test_values_beyond_0_and_1_give_the_regions_of_the_same_values_within(
        self, factor: float, offset: float
    ) -> None:
        full_range = (VALUES - VALUES.min()) / (VALUES.max() - VALUES.min())
        config = configure("fast", **FAST)
        within = Grouping(full_range, config)
        beyond = Grouping((full_range.astype(np.float64) * factor + offset).astype(np.float32), config)
        assert within.superpixels is not None
        assert beyond.superpixels is not None
        counts = [
            int(grouping.superpixels.max()) + 1 for grouping in (within, beyond) if grouping.superpixels is not None
        ]
        assert counts[1] == pytest.approx(counts[0], rel=0.1)  # rounding may move a border

    def test_paper_has_no_superpixels_and_leaves_labels_alone(self) -> None:
        grouping = Grouping(VALUES, configure("paper"))
        assert grouping.superpixels is None
        labels = np.random.default_rng(0).integers(0, 90, VALUES.shape[:2])
        assert grouping.labels(labels) is labels

    def test_labels_of_the_network_within_the_bounds_are_left_alone(self) -> None:
        labels = 3 * np.random.default_rng(0).integers(0, 9, VALUES.shape[:2])
        found = Grouping(VALUES, configure("paper", min_labels=9, max_labels=9)).labels(labels)
        assert np.array_equal(found * 3, labels)

    def test_regions_are_unions_of_superpixels(self) -> None:
        grouping = Grouping(VALUES, configure("fast", **FAST))
        assert grouping.superpixels is not None
        labels = grouping.labels(one_network_label_each(grouping))
        assert 1 < labels.max() < grouping.superpixels.max()
        for number in range(grouping.superpixels.max() + 1):
            assert len(np.unique(labels[grouping.superpixels == number])) == 1

    def test_coarser_segmentations_are_numbered_without_gaps(self) -> None:
        for numbers in coarser_segmentations(VALUES, VALUES * 100):
            assert numbers.shape == VALUES.shape[:2]
            assert np.array_equal(np.unique(numbers), np.arange(numbers.max() + 1))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 8), width=st.integers(1, 8))
def test_connected_components_are_those_that_share_sides(seed: int, height: int, width: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, (height, width)).astype(np.int64)
    found = connected_components(labels)
    expected = -np.ones((height, width), np.int64)
    for start in np.ndindex(height, width):
        if expected[start] < 0:
            number, front = expected.max() + 1, [start]
            while front:
                y, x = front.pop()
                if 0 <= y < height and 0 <= x < width and expected[y, x] < 0 and labels[y, x] == labels[start]:
                    expected[y, x] = number
                    front += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(found)) == expected.max() + 1


class TestLabelsAskedFor:
    @pytest.mark.parametrize("preset", ["fast", "paper"])
    @pytest.mark.parametrize("count", [1, 2, 7, 150])
    def test_n_labels_is_exact_and_the_same_twice(self, preset: Any, count: int) -> None:
        segmenter = Segmenter(preset, n_labels=count, max_steps=2)
        first, second = segmenter.segment(PHOTO), segmenter.segment(PHOTO)
        assert first.n_labels == len(np.unique(first.labels)) == count
        assert (np.diff(first.areas()) <= 0).all()
        assert np.array_equal(first.labels, second.labels)

    @pytest.mark.parametrize("preset", ["fast", "paper"])
    def test_bounds_hold_and_change_nothing_where_they_hold_already(self, preset: Any) -> None:
        def bounded(least: int | None = None, most: int | None = None) -> ds.Segmentation:
            # Of fast, a photo that is large enough for a few regions, however large its superpixels.
            image = PHOTO if preset == "paper" else skimage.data.chelsea()[::3, ::3]
            return ds.segment(image, preset=preset, max_steps=2, min_labels=least, max_labels=most)

        free = bounded()
        count = free.n_labels
        assert count > 1
        assert bounded(count + 5).n_labels == count + 5
        assert bounded(None, count - 1).n_labels == count - 1
        for least, most in ((None, count), (None, count + 1), (2, count + 1)):
            assert np.array_equal(bounded(least, most).labels, free.labels)

    @pytest.mark.parametrize("preset", ["fast", "paper"])
    def test_n_labels_at_reduced_size(self, preset: Any) -> None:
        segmentation = ds.segment(PHOTO, preset=preset, max_steps=2, n_labels=12, max_side=25)
        assert segmentation.labels.shape == PHOTO.shape[:2]
        assert segmentation.trained_size != PHOTO.shape[:2]
        assert len(np.unique(segmentation.labels)) == segmentation.n_labels == 12

    @pytest.mark.parametrize("size", [(1, 2), (1, 40), (40, 1), (6, 7)])
    @pytest.mark.parametrize("bands", [1, 2, 4])
    @pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
    def test_as_many_labels_as_pixels(self, size: tuple[int, int], bands: int, kind: Any) -> None:
        image = np.random.default_rng(0).integers(0, 200, (*size, bands)).astype(kind)
        for preset in ("fast", "paper"):
            segmentation = ds.segment(image, preset=preset, max_steps=2, n_labels=size[0] * size[1])
            assert sorted(segmentation.labels.ravel().tolist()) == list(range(size[0] * size[1]))

    def test_training_ends_with_the_labels_asked_for_where_they_are_the_networks_own(self) -> None:
        segmentation = ds.segment(PHOTO, preset="paper", n_labels=40)
        counts = [step["n_labels"] for step in segmentation.history]
        assert segmentation.stopped == "few_labels"
        assert counts[-1] <= 40 < min(counts[:-1])

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"n_labels": 3, "min_labels": 2}, "n_labels is exact: leave min_labels and max_labels out"),
            ({"n_labels": 3, "max_labels": 3}, "n_labels is exact"),
            ({"n_labels": 0}, "n_labels wants a whole number, at least 1, not 0"),
            ({"n_labels": 2.5}, "n_labels wants a whole number, at least 1, not 2.5"),
            ({"n_labels": True}, "n_labels wants a whole number, at least 1, not True"),
            ({"min_labels": 0}, "min_labels wants at least 1, not 0"),
            ({"max_labels": -2}, "max_labels wants at least 1, not -2"),
            ({"min_labels": 5, "max_labels": 4}, "min_labels wants at most max_labels (4), not 5"),
        ],
    )
    @pytest.mark.parametrize("preset", ["fast", "paper"])
    def test_what_cannot_be_is_refused_in_one_line(self, preset: Any, options: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError) as caught:
            Segmenter(preset, **options)
        assert str(caught.value).startswith(words)
        assert "\n" not in str(caught.value)

    def test_more_labels_than_pixels_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^13 labels are more than the 12 pixels of the image$"):
            ds.segment(PHOTO[:3, :4], n_labels=13)
        with pytest.raises(ValueError, match=r"^13 labels are more than the 12 pixels of the image at max_side 4$"):
            ds.segment(PHOTO[:30, :40], min_labels=13, max_side=4)
