"""Finding label maps in folders, pairing them by stem, and fitting their size."""

from __future__ import annotations

from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dynamicseg.evaluate.label_files import find_label_maps, names, pair_by_stem, resize_nearest


def touch(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


class TestFindLabelMaps:
    def test_what_segment_writes(self, tmp_path: Path) -> None:
        touch(tmp_path, *[f"a/x{tail}" for tail in ("_labels.png", "_overlay.png", "_boundaries.png", ".json")])
        touch(tmp_path, "y_labels.tif", "a/x.jpg", "a/x.png", ".hidden/z_labels.png", ".w_labels.png")
        assert find_label_maps(tmp_path) == {
            "a/x": tmp_path / "a" / "x_labels.png",
            "y": tmp_path / "y_labels.tif",
        }

    def test_plain_label_images(self, tmp_path: Path) -> None:
        touch(tmp_path, "b.PNG", "a.tif", "c/d.e.png", "sea_overlay.png", "notes.txt")
        assert list(find_label_maps(tmp_path)) == ["a", "b", "c/d.e", "sea_overlay"]

    def test_a_file_with_nothing_before_the_tail(self, tmp_path: Path) -> None:
        touch(tmp_path, "_labels.png", "a/_labels.png")
        assert list(find_label_maps(tmp_path)) == ["_labels", "a/_labels"]

    def test_two_for_one_stem(self, tmp_path: Path) -> None:
        touch(tmp_path, "x_labels.png", "x_labels.tif")
        with pytest.raises(ValueError, match="more than one label map named x"):
            find_label_maps(tmp_path)

    def test_none(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="holds no label maps"):
            find_label_maps(touch(tmp_path, "x.jpg"))
        with pytest.raises(FileNotFoundError, match="no such folder"):
            find_label_maps(tmp_path / "none")


class TestPairByStem:
    def test_in_the_order_asked_for(self, tmp_path: Path) -> None:
        touch(tmp_path, "a_labels.png", "b_labels.png")
        assert list(pair_by_stem(tmp_path, ["b", "a"])) == ["b", "a"]

    def test_names_what_is_missing_and_what_is_too_much(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "d.png")
        with pytest.raises(ValueError) as caught:
            pair_by_stem(tmp_path, ["a", "b", "c"])
        text = str(caught.value)
        assert "no label map for 2 of 3 images: b, c; 1 label maps of images that the truth does not have: d" in text
        assert "\n" not in text

    def test_below_the_name_of_the_split(self, tmp_path: Path) -> None:
        touch(tmp_path, "val/a_labels.png", "train/b_labels.png")
        assert pair_by_stem(tmp_path, ["a"], split="val") == {"a": tmp_path / "val" / "a_labels.png"}

    def test_names_the_first_ones(self) -> None:
        assert names(["a", "b"]) == "a, b"
        assert names(list("abcd"), most=2) == "a, b and 2 more"


class TestResizeNearest:
    def test_by_hand(self) -> None:
        labels = np.array([[1, 2], [3, 4]])
        assert resize_nearest(labels, (4, 2)).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
        assert resize_nearest(np.array([[1, 2, 3]]), (2, 1)).tolist() == [[2], [2]]

    @given(
        hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)),
        st.integers(1, 9),
        st.integers(1, 9),
    )
    def test_any_size(self, labels: NDArray[np.int32], height: int, width: int) -> None:
        found = resize_nearest(labels, (height, width))
        assert found.shape == (height, width)
        assert set(found.ravel()) <= set(labels.ravel())
        np.testing.assert_array_equal(resize_nearest(labels, (labels.shape[0], labels.shape[1])), labels)
        # Turned by half a circle is the same before and after, but for ties: odd factors have none.
        thrice = resize_nearest(labels, (3 * labels.shape[0], 3 * labels.shape[1]))
        np.testing.assert_array_equal(thrice[1::3, 1::3], labels)
        np.testing.assert_array_equal(resize_nearest(labels[::-1, ::-1], thrice.shape), thrice[::-1, ::-1])
