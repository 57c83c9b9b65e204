"""The layouts in which data sets are distributed, on small trees."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from dynamicseg.evaluate import open_dataset
from dynamicseg.evaluate.datasets import DATASETS, read_bsds_segmentations
from dynamicseg.io import write_label_map

MAP = np.array([[1, 1, 2], [3, 3, 2]], np.uint16)


def write_mat(path: Path, *maps: NDArray[Any]) -> None:
    """As in BSDS500: a row of cells, each a structure with Segmentation and Boundaries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.empty((1, len(maps)), object)
    for k, labels in enumerate(maps):
        cells[0, k] = {"Segmentation": labels, "Boundaries": np.zeros(labels.shape, bool)}
    savemat(path, {"groundTruth": cells}, do_compression=True)


def write_map(path: Path, labels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label_map(path, labels)


def write_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2)).save(path)


@pytest.fixture
def bsds(tmp_path: Path) -> Path:
    for split, stems in (("train", "ba"), ("val", "c")):
        for stem in stems:
            write_mat(tmp_path / "groundTruth" / split / f"{stem}.mat", MAP, MAP + 1)
            write_photo(tmp_path / "images" / split / f"{stem}.jpg")
    (tmp_path / "images" / "train" / "Thumbs.db").touch()
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for stem in ("2007_1", "2007_2", "2007_3"):
        write_map(base / "SegmentationClass" / f"{stem}.png", np.array([[0, 255, 20]]))
        write_photo(base / "JPEGImages" / f"{stem}.jpg")
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("2007_3\n2007_1\n")
    (lists / "train.txt").write_text("2007_2\n")
    return tmp_path


class TestBSDS500:
    def test_splits(self, bsds: Path) -> None:
        found = open_dataset(bsds, "bsds500", split="train")
        assert [item.stem for item in found.items] == ["a", "b"]
        assert found.items[0].image == bsds / "images" / "train" / "a.jpg"
        assert (found.split, found.ignore_label, found.has_classes) == ("train", None, False)
        maps = found.annotators(found.items[0])
        assert [each.tolist() for each in maps] == [MAP.tolist(), (MAP + 1).tolist()]

    @pytest.mark.parametrize("inner", ["groundTruth", "groundTruth/val"])
    def test_inner_folders(self, bsds: Path, inner: str) -> None:
        found = open_dataset(bsds / inner, "bsds500", split="val")
        assert [item.image for item in found.items] == [bsds / "images" / "val" / "c.jpg"]

    def test_folder_of_a_split_names_it(self, bsds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert open_dataset(bsds / "groundTruth" / "val", "bsds500").split == "val"
        monkeypatch.chdir(bsds / "groundTruth" / "val")
        assert open_dataset(".", "bsds500").split == "val"
        with pytest.raises(ValueError, match="not a split 'test'"):
            open_dataset(".", "bsds500", split="test")

    def test_as_unpacked(self, bsds: Path) -> None:
        outer = bsds / "unpacked"
        (outer / "BSR" / "BSDS500" / "data").mkdir(parents=True)
        os.rename(bsds / "groundTruth", outer / "BSR" / "BSDS500" / "data" / "groundTruth")
        assert len(open_dataset(outer, "bsds500", split="val").items) == 1

    def test_without_photos(self, bsds: Path) -> None:
        (bsds / "images" / "val" / "c.jpg").unlink()
        assert open_dataset(bsds, "bsds500", split="val").items[0].image is None

    def test_which_split(self, bsds: Path) -> None:
        with pytest.raises(ValueError, match="has the splits train, val; choose one"):
            open_dataset(bsds, "bsds500")
        with pytest.raises(ValueError, match="has no split 'test'; it has train, val"):
            open_dataset(bsds, "bsds500", split="test")

    def test_annotators_who_were_stored_as_doubles(self, tmp_path: Path) -> None:
        write_mat(tmp_path / "a.mat", MAP.astype(float))
        (found,) = read_bsds_segmentations(tmp_path / "a.mat")
        assert found.dtype == np.int64
        assert found.tolist() == MAP.tolist()

    @pytest.mark.parametrize(
        "contents",
        [
            {"segments": MAP},
            {"groundTruth": MAP},
            {"groundTruth": np.array([[{"Boundaries": MAP}]], object)},
            {"groundTruth": np.array([[{"Segmentation": MAP / 2}]], object)},
            {"groundTruth": np.array([[{"Segmentation": np.zeros((2, 2, 2))}]], object)},
            {"groundTruth": np.array([[MAP, MAP]], object)},
            {"groundTruth": np.array([[{"Segmentation": np.array([[MAP, "a"]], object)}]], object)},
            {"groundTruth": np.array([[{"Segmentation": "a map"}]], object)},
        ],
    )
    def test_another_mat_file(self, tmp_path: Path, contents: dict[str, Any]) -> None:
        savemat(tmp_path / "x.mat", contents)
        with pytest.raises(ValueError, match=r"x\.mat: holds no BSDS500 ground truth"):
            read_bsds_segmentations(tmp_path / "x.mat")

    @pytest.mark.parametrize("contents", [b"", b"not a MAT file", b"MATLAB 5.0 MAT-file" + bytes(300)])
    def test_damaged(self, tmp_path: Path, contents: bytes) -> None:
        (tmp_path / "x.mat").write_bytes(contents)
        with pytest.raises(ValueError, match=r"x\.mat: ") as caught:
            read_bsds_segmentations(tmp_path / "x.mat")
        assert "\n" not in str(caught.value)


class TestVOC2012:
    @pytest.mark.parametrize("inner", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
    def test_list_decides(self, voc: Path, inner: str) -> None:
        found = open_dataset(voc / inner, "voc2012", split="val")
        assert [item.stem for item in found.items] == ["2007_1", "2007_3"]
        assert all(item.image is not None for item in found.items)
        assert (found.ignore_label, found.has_classes) == (255, True)
        assert [each.tolist() for each in found.annotators(found.items[0])] == [[[0, 255, 20]]]

    def test_which_split(self, voc: Path) -> None:
        with pytest.raises(ValueError, match="has the splits train, val"):
            open_dataset(voc, "voc2012")

    def test_listed_but_not_there(self, voc: Path) -> None:
        lists = voc / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
        (lists / "test.txt").write_text("2007_1 2008_7")
        with pytest.raises(ValueError, match="not in SegmentationClass: 2008_7"):
            open_dataset(voc, "voc2012", split="test")
        (lists / "test.txt").write_text("\n")
        with pytest.raises(ValueError, match="names no image"):
            open_dataset(voc, "voc2012", split="test")


class TestCocoStuff:
    def test_layout(self, tmp_path: Path) -> None:
        write_map(tmp_path / "annotations" / "val2017" / "000139.png", np.array([[0, 181, 255]]))
        write_photo(tmp_path / "images" / "val2017" / "000139.jpg")
        (tmp_path / "annotations" / "instances_val2017.json").touch()
        for root in (tmp_path, tmp_path / "annotations" / "val2017"):
            found = open_dataset(root, "coco-stuff")
            assert [item.stem for item in found.items] == ["000139"]
            assert found.items[0].image == tmp_path / "images" / "val2017" / "000139.jpg"
            assert (found.split, found.ignore_label) == ("val2017", 255)


class TestLabels:
    def test_subfolders(self, tmp_path: Path) -> None:
        write_map(tmp_path / "town" / "x.png", np.array([[4, 300]]))
        found = open_dataset(tmp_path, "labels", ignore_label=4)
        assert [(item.stem, item.image) for item in found.items] == [("town/x", None)]
        assert found.ignore_label == 4
        assert found.annotators(found.items[0])[0].tolist() == [[4, 300]]
        assert [item.stem for item in open_dataset(tmp_path, "labels", split="town").items] == ["x"]
        with pytest.raises(ValueError, match="no subfolder 'sea'"):
            open_dataset(tmp_path, "labels", split="sea")


@pytest.mark.parametrize("name", DATASETS)
def test_nothing_there(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ValueError, match="holds no"):
        open_dataset(tmp_path, name)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_dataset(tmp_path / "none", name)


def test_unknown_data_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean bsds500"):
        open_dataset(tmp_path, "bsds50")  # type: ignore[arg-type]


@pytest.mark.dataset
def test_real_bsds500(dataset: Callable[[str], Path]) -> None:
    found = open_dataset(dataset("bsds500"), "bsds500", split="val")
    assert len(found.items) == 100
    assert all(item.image is not None for item in found.items)
    maps = found.annotators(found.items[0])
    assert len(maps) >= 4
    assert {each.shape for each in maps} <= {(321, 481), (481, 321)}
