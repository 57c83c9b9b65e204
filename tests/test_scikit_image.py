"""Labels as scikit-image takes them, and images as it gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import skimage
from numpy.typing import NDArray
from skimage.color import label2rgb, rgb2gray
from skimage.measure import regionprops
from skimage.segmentation import mark_boundaries, relabel_sequential
from skimage.util import img_as_float32, img_as_float64, img_as_ubyte

from dynamicseg import Segmentation, segment

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])


@pytest.fixture(scope="module")
def segmentation() -> Segmentation:
    mask = np.ones(PHOTO.shape[:2], np.bool_)
    mask[:5, :7] = False
    return segment(PHOTO, max_steps=2, mask=mask)


def test_labels_fit_mark_boundaries_and_label2rgb(segmentation: Segmentation) -> None:
    assert mark_boundaries(PHOTO, segmentation.labels).shape == PHOTO.shape
    coloured = label2rgb(segmentation.labels, PHOTO, bg_label=-1, kind="avg")
    largest = segmentation.labels == 0
    assert np.ptp(coloured[largest], axis=0).max() == 0  # label 0 is a region like any other


def test_regionprops_sees_label_0_one_higher(segmentation: Segmentation) -> None:
    """scikit-image takes 0 for background, and so it becomes what is no data here."""
    as_they_are = {region.label: region.area for region in regionprops(segmentation.labels)}
    areas = segmentation.areas()
    assert as_they_are == dict(enumerate(areas.tolist()[1:], 1))
    all_of_them = {region.label - 1: region.area for region in regionprops(segmentation.labels + 1)}
    assert all_of_them == dict(enumerate(areas.tolist()))
    brightest = max(regionprops(segmentation.labels + 1, PHOTO.mean(axis=2)), key=lambda region: region.intensity_mean)
    assert PHOTO.mean(axis=2)[segmentation.labels == brightest.label - 1].mean() > PHOTO.mean()


def test_labels_are_sequential_already(segmentation: Segmentation) -> None:
    again, _, _ = relabel_sequential(segmentation.labels + 1)
    np.testing.assert_array_equal(again, segmentation.labels + 1)
    without_mask = segment(PHOTO, max_steps=2).labels
    np.testing.assert_array_equal(relabel_sequential(without_mask)[0], without_mask)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(img_as_float64(PHOTO), id="float64"),
        pytest.param(img_as_float32(PHOTO), id="float32"),
        pytest.param(PHOTO, id="uint8"),
    ],
)
def test_any_form_of_a_photo_has_the_same_labels(image: NDArray[Any]) -> None:
    np.testing.assert_array_equal(segment(image, max_steps=2).labels, segment(PHOTO, max_steps=2).labels)


@pytest.mark.parametrize("image", [rgb2gray(PHOTO), img_as_ubyte(rgb2gray(PHOTO))], ids=["float64", "uint8"])
def test_grey_photos(image: NDArray[Any]) -> None:
    result = segment(image, max_steps=2)
    assert result.labels.dtype == np.int32
    assert result.labels.shape == image.shape


def test_what_is_no_photo_is_refused_in_one_line() -> None:
    bright = rgb2gray(PHOTO) > 0.5
    with pytest.raises(TypeError, match=r"^image: has dtype bool; want uint8, uint16 or floating point: convert it "):
        segment(bright)
    with pytest.raises(TypeError, match=r"^image: has dtype int.*; want uint8"):
        segment(skimage.measure.label(bright))
