"""GeoJSON polygons: valid, and exactly the pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.measure
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from test_segmentation import segmentation

from dynamicseg.geojson import feature_collection

shapely = pytest.importorskip("shapely")
geometry = pytest.importorskip("shapely.geometry")


def rastered(collection: dict[str, Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The label map that the polygons cover, -1 where none is; each of them is looked at."""
    labels = np.full(shape, -1)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    for feature in collection["features"]:
        polygon = geometry.shape(feature["geometry"])
        assert polygon.is_valid
        assert polygon.area == feature["properties"]["area"]
        assert polygon.exterior.is_ccw
        assert not any(hole.is_ccw for hole in polygon.interiors)
        inside = shapely.contains_xy(polygon, x, y)
        assert (labels[inside] == -1).all()  # nothing is covered twice
        labels[inside] = feature["properties"]["label"]
    return labels


@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(-1, 2)))
def test_any_label_map_comes_back_from_its_polygons(labels: NDArray[np.int32]) -> None:
    collection = feature_collection(labels)
    np.testing.assert_array_equal(rastered(collection, labels.shape), labels)
    regions = skimage.measure.label(labels, background=-1, connectivity=1)
    assert len(collection["features"]) == regions.max()
    of_label = [feature["properties"]["label"] for feature in collection["features"]]
    assert of_label == sorted(of_label)


def test_a_pixel_is_the_square_right_and_below_of_its_numbers() -> None:
    (feature,) = feature_collection(np.array([[-1, -1, -1], [-1, -1, 4]], np.int32))["features"]
    assert feature["properties"] == {"label": 4, "area": 1}
    (ring,) = feature["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    assert {tuple(corner) for corner in ring} == {(2, 1), (3, 1), (3, 2), (2, 2)}


def test_only_corners_are_points() -> None:
    (feature,) = feature_collection(np.zeros((50, 70), np.int32))["features"]
    assert len(feature["geometry"]["coordinates"][0]) == 5


def test_where_a_region_meets_itself_across_a_point_its_rings_do_not() -> None:
    labels = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1]], np.int32)
    collection = feature_collection(labels)
    np.testing.assert_array_equal(rastered(collection, labels.shape), labels)
    around, *others = collection["features"]
    assert len(around["geometry"]["coordinates"]) == 2  # a hole that touches the outer ring
    assert [other["properties"] for other in others] == [{"label": 1, "area": 1}] * 2


def test_a_spiral_is_one_region() -> None:
    """Whose runs lie in one row after another, so that many are joined late."""
    labels = np.zeros((41, 41), np.int32)
    for k in range(0, 20, 2):
        labels[k, k : 41 - k] = labels[k : 41 - k, 40 - k] = labels[40 - k, k : 41 - k] = 1
        labels[k + 2 : 41 - k, k] = 1
        labels[k + 2, k : k + 3] = 1
    collection = feature_collection(labels)
    assert sum(feature["properties"]["label"] for feature in collection["features"]) == 1
    np.testing.assert_array_equal(rastered(collection, labels.shape), labels)


def test_a_segmentation_becomes_a_file(tmp_path: Path) -> None:
    labels = np.array([[0, 0, 1], [-1, 0, 1], [0, 2, 2]])
    result = segmentation(labels)
    (path,) = result.save(tmp_path, "x", "geojson")
    assert path.name == "x.geojson"
    assert json.loads(path.read_text()) == result.to_geojson()
    np.testing.assert_array_equal(rastered(result.to_geojson(), labels.shape), labels)
