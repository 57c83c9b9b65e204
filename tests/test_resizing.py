"""``max_side``: images at reduced size, results at the size of the image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st

import dynamicseg as ds
from dynamicseg.resizing import reduced, resized_labels, size_within

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::4, ::4])  # 75x113
QUICK: dict[str, Any] = {"max_steps": 2}


@pytest.mark.parametrize(
    ("size", "max_side", "wanted"),
    [
        ((300, 400), None, (300, 400)),
        ((300, 400), 400, (300, 400)),
        ((300, 400), 200, (150, 200)),
        ((400, 300), 100, (100, 75)),
        ((3, 1000), 100, (1, 100)),
        ((1, 2), 2, (1, 2)),
    ],
)
def test_the_longer_side_is_what_is_asked_for(
    size: tuple[int, int], max_side: int | None, wanted: tuple[int, int]
) -> None:
    assert size_within(*size, max_side) == wanted


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 40))
def test_labels_come_back_where_they_were(height: int, width: int, max_side: int) -> None:
    size = size_within(height, width, max_side)
    labels = np.arange(size[0] * size[1]).reshape(size)
    enlarged = resized_labels(labels, (height, width))
    assert enlarged.shape == (height, width)
    assert set(enlarged.ravel()) == set(labels.ravel())  # none is lost
    # The pixel of the small map that a pixel of the large one takes lies over its centre.
    rows, columns = enlarged[:, 0] // size[1], enlarged[0] % size[1]
    for taken, old, new in ((rows, size[0], height), (columns, size[1], width)):
        centres = (np.arange(new) + 0.5) * old / new
        assert (np.abs(centres - (taken + 0.5)) <= 0.5 + 1e-9).all()


def test_reducing_takes_means_and_no_samples() -> None:
    stripes = np.zeros((90, 120, 2), np.float32)
    stripes[::2, :, 0] = 1
    stripes[:, 60:, 1] = 1
    small = reduced(stripes, (30, 40))
    assert small.shape == (30, 40, 2)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small[..., 0], 0.5, atol=0.08)  # a fine pattern becomes grey
    np.testing.assert_array_equal(small[:, :19, 1], 0)  # an edge stays where it is
    np.testing.assert_allclose(small[:, 21:, 1], 1, rtol=1e-6)


def test_reducing_gives_no_value_beyond_those_there_are() -> None:
    """Else a white of 1.0000001 would count as another range of values, and change the contrast of the whole image."""
    values = np.full((100, 160, 3), 0.3, np.float32)
    values[20:80, 30:90] = 1
    small = reduced(values, (33, 53))
    assert small.max() == 1
    assert small.min() == values.min()


def test_an_image_that_is_small_enough_is_not_touched() -> None:
    values = np.zeros((5, 6, 3), np.float32)
    labels = np.zeros((5, 6), np.int64)
    assert reduced(values, (5, 6)) is values
    assert resized_labels(labels, (5, 6)) is labels
    plain, limited = (ds.segment(PHOTO, max_side=side, **QUICK) for side in (None, 113))
    assert np.array_equal(plain.labels, limited.labels)
    assert plain.history == limited.history


@pytest.mark.parametrize(
    "image",
    [
        PHOTO,
        PHOTO[..., 0],
        PHOTO.astype(np.uint16) * 257,
        (PHOTO / 255).astype(np.float32),
        np.concatenate([PHOTO] * 4, axis=2),
    ],
    ids=["rgb", "grey", "uint16", "float32", "12 bands"],
)
def test_results_keep_the_size_of_the_image(image: np.ndarray[Any, Any], tmp_path: Path) -> None:
    segmentation = ds.segment(image, max_side=50, **QUICK)
    assert segmentation.labels.shape == image.shape[:2]
    assert segmentation.trained_size == (33, 50)
    areas = np.bincount(segmentation.labels.ravel())
    assert len(areas) == segmentation.n_labels
    assert (np.diff(areas) <= 0).all()
    segmentation.save(tmp_path, "x")
    described = json.loads((tmp_path / "x.json").read_text())
    assert described["trained_size"] == {"height": 33, "width": 50}
    assert (described["size"]["height"], described["size"]["width"]) == (75, 113)
    assert described["config"]["max_side"] == 50


def test_labels_are_those_of_the_reduced_image() -> None:
    values = (PHOTO / 255).astype(np.float32)
    small = ds.segment(reduced(values, (33, 50)), **QUICK)
    large = ds.segment(values, max_side=50, **QUICK)
    assert small.history == large.history
    # Numbers may differ where areas are close: each label of the one is one label of the other.
    pairs = np.stack([resized_labels(small.labels, (75, 113)).ravel(), large.labels.ravel()])
    assert len(np.unique(pairs, axis=1).T) == small.n_labels == large.n_labels


def test_a_segmentation_at_its_own_size_says_so() -> None:
    assert ds.segment(PHOTO, **QUICK).metadata()["trained_size"] == {"height": 75, "width": 113}
