"""The COCO format: what pycocotools makes of each mask, to the byte, for all labels at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from test_segmentation import segmentation

from dynamicseg import coco

masks = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # its own with NumPy 2


def check(labels: NDArray[np.int32]) -> None:
    found = coco.label_annotations(labels, image_id=7, first_id=5)
    assert [one["label"] for one in found] == [label for label in np.unique(labels) if label >= 0]
    for k, one in enumerate(found):
        mask = labels == one["label"]
        encoded = masks.encode(np.asfortranarray(mask, np.uint8))
        assert one["segmentation"] == {"size": list(labels.shape), "counts": encoded["counts"].decode()}
        assert one["bbox"] == masks.toBbox(encoded).tolist()
        assert one["area"] == mask.sum()
        assert (one["id"], one["image_id"], one["category_id"]) == (5 + k, 7, one["label"] + 1)
        np.testing.assert_array_equal(masks.decode(one["segmentation"]), mask)


@given(arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(-1, 3)))
def test_any_label_map_is_encoded_as_by_pycocotools(labels: NDArray[np.int32]) -> None:
    check(labels)


def test_long_runs_take_several_characters() -> None:
    labels = np.zeros((300, 700), np.int32)
    labels[20:290, 100:650] = 2  # label 1 is missing
    labels[50:60, 300:] = -1
    labels[77, 333] = 900_000
    check(labels)


def test_nothing_but_no_data_has_no_annotations() -> None:
    assert coco.label_annotations(np.full((3, 4), -1, np.int32)) == []


def test_a_segmentation_becomes_a_file_that_pycocotools_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.array([[0, 0, 1], [-1, 0, 1], [0, 2, 2]])
    result = segmentation(labels)
    (path,) = result.save(tmp_path, "x", "coco")
    assert json.loads(path.read_text()) == result.to_coco()
    assert "\n" not in path.read_text().strip()

    from pycocotools.coco import COCO

    loaded = COCO(path)
    capsys.readouterr()
    (image,) = loaded.loadImgs(loaded.getImgIds())
    assert (image["file_name"], image["height"], image["width"]) == ("x.jpg", 3, 3)
    again = np.full((3, 3), -1)
    for one in loaded.loadAnns(loaded.getAnnIds(imgIds=image["id"])):
        again[loaded.annToMask(one) > 0] = int(loaded.loadCats(one["category_id"])[0]["name"])
    np.testing.assert_array_equal(again, labels)


def test_several_images_fit_into_one_file() -> None:
    first = segmentation().to_coco()
    second = segmentation(source=None).to_coco(image_id=2, first_annotation_id=1 + len(first["annotations"]))
    ids = [one["id"] for one in first["annotations"] + second["annotations"]]
    assert ids == [1, 2, 3, 4, 5, 6]
    assert {one["image_id"] for one in second["annotations"]} == {second["images"][0]["id"]} == {2}
    assert second["images"][0]["file_name"] == ""
