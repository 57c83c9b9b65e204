"""What `dynamicseg.segmentation` promises: labels by area, pictures, and complete sets of files."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from dynamicseg import segmentation as dseg
from dynamicseg.io import label_palette, read_image, read_label_map
from dynamicseg.numbering import relabel_by_area
from dynamicseg.segmentation import Segmentation, is_saved, output_paths

ALL_FORMATS = ("png", "npy", "boundaries", "overlay", "coco", "geojson", "json")
NAMES = [
    *("x_labels.png", "x_labels.npy", "x_boundaries.png", "x_overlay.png"),
    *("x.coco.json", "x.geojson", "x.json"),
]


class Config:
    """Stands for the configuration: all that is asked of it here is its JSON form."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return {"seed": 7}


def segmentation(labels: NDArray[Any] | None = None, image: NDArray[Any] | None = None, **changes: Any) -> Segmentation:
    if labels is None:
        labels = np.array([[0, 0, 1], [0, 0, 1], [0, 2, 2]])
    if image is None:
        image = np.full((*labels.shape, 3), 100, np.uint8)
    parts: dict[str, Any] = {
        "labels": labels.astype(np.int32),
        "n_labels": int(labels.max()) + 1,
        "history": [{"step": 1, "loss": 1.5, "n_labels": 3}],
        "config": Config(),
        "timings": {"total": 0.25},
        "image": image,
        "source": "photos/x.jpg",
    }
    return Segmentation(**{**parts, **changes})


class TestRelabel:
    def test_largest_first_and_ties_by_number(self) -> None:
        labels = np.array([[9, 9, 9, 4], [-3, -3, 4, 7]])
        want = [[0, 0, 0, 2], [1, 1, 2, 3]]
        relabelled = relabel_by_area(labels)
        assert relabelled.dtype == np.int32
        assert relabelled.tolist() == want

    @given(
        arrays(
            st.sampled_from(["int8", "uint8", ">i2", "int32", "int64", "uint64"]),
            array_shapes(min_dims=2, max_dims=2, max_side=9),
        )
    )
    def test_any_label_map_keeps_its_regions(self, labels: NDArray[Any]) -> None:
        result = relabel_by_area(labels)
        old, areas = np.unique(labels, return_counts=True)
        ranked = sorted(zip(-areas, old, strict=True))
        for new, (negative_area, number) in enumerate(ranked):
            assert np.array_equal(result == new, labels == number)
            assert (result == new).sum() == -negative_area

    @pytest.mark.parametrize(
        "values",
        [
            np.array([[-128, 127, 127]], np.int8),
            np.array([[2**64 - 1, 2**64 - 2, 2**64 - 2]], np.uint64),
            np.array([[2**64 - 1, 0, 0]], np.uint64),
            np.array([[-(2**63), 2**63 - 1, 2**63 - 1]], np.int64),
            np.array([[True, False, False]]),
        ],
    )
    def test_extreme_numbers(self, values: NDArray[Any]) -> None:
        assert relabel_by_area(values).tolist() == [[1, 0, 0]]

    def test_floats_are_refused_and_empty_stays_empty(self) -> None:
        with pytest.raises(TypeError, match="float64"):
            relabel_by_area(np.zeros((2, 2)))
        assert relabel_by_area(np.zeros((0, 2), int)).shape == (0, 2)


class TestConstruction:
    def test_parts_that_do_not_fit_are_refused(self) -> None:
        labels = np.zeros((3, 4), np.int32)
        with pytest.raises(TypeError, match="int64"):
            dataclasses.replace(segmentation(labels), labels=labels.astype(np.int64))
        with pytest.raises(ValueError, match=r"image is \(4, 3, 1\)"):
            segmentation(labels=labels, image=np.zeros((4, 3, 1), np.uint8))
        with pytest.raises(ValueError, match="0 to 2; want 0 to n_labels - 1 = 1"):
            segmentation(n_labels=2)
        with pytest.raises(ValueError, match="-2 to -2"):
            segmentation(labels=labels - 2, n_labels=1)

    def test_repr_is_one_short_line(self) -> None:
        assert repr(segmentation()) == "Segmentation(3x3, n_labels=3, steps=1, source='photos/x.jpg')"
        assert repr(segmentation(source=None, stopped="max_steps")) == (
            "Segmentation(3x3, n_labels=3, steps=1, stopped='max_steps')"
        )

    def test_fields_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            segmentation().n_labels = 4  # type: ignore[misc]


class TestNotebook:
    def test_a_small_image_is_shown_as_it_is_saved(self) -> None:
        result = segmentation()
        shown = np.asarray(Image.open(BytesIO(result._repr_png_())))
        np.testing.assert_array_equal(shown, result.overlay())

    @pytest.mark.parametrize(
        ("shape", "size"),
        [((1500, 2000), (866, 1154)), ((1, 3_000_000), (1, 1_000_000)), ((3_000_000, 1), (1_000_000, 1))],
    )
    def test_a_large_one_is_reduced(self, shape: tuple[int, int], size: tuple[int, int]) -> None:
        labels = np.zeros(shape, np.uint8)
        labels[: shape[0] // 2] = 1
        labels[:, -10:] = 2
        png = segmentation(labels, np.full((*shape, 3), 77, np.uint8))._repr_png_()
        assert png.startswith(b"\x89PNG")
        with Image.open(BytesIO(png)) as shown:
            assert shown.size == size[::-1]


class TestPictures:
    def test_areas(self) -> None:
        areas = segmentation(n_labels=4).areas()
        assert areas.dtype == np.int64
        assert areas.tolist() == [5, 2, 2, 0]

    def test_boundaries_are_both_sides_of_an_edge_for_label_0_too(self) -> None:
        labels = np.zeros((5, 8), np.int32)
        labels[:, 4:] = 1
        want = np.zeros((5, 8), bool)
        want[:, 3:5] = True
        for numbers in (labels, 1 - labels):
            boundaries = segmentation(numbers).boundaries()
            assert boundaries.dtype == np.bool_
            np.testing.assert_array_equal(boundaries, want)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
    def test_one_region_has_no_boundary(self, shape: tuple[int, int]) -> None:
        seg = segmentation(np.zeros(shape, np.int32))
        assert not seg.boundaries().any()
        assert len(np.unique(seg.overlay().reshape(-1, 3), axis=0)) == 1

    @pytest.mark.parametrize("ground", [0, 128, 255])
    def test_boundaries_show_on_dark_and_light(self, ground: int) -> None:
        labels = np.zeros((5, 8), np.int32)
        labels[:, 4:] = 1
        overlay = segmentation(labels, np.full((5, 8, 3), ground, np.uint8)).overlay(alpha=0.2)
        edge = overlay[2, 3:5].astype(int).sum(axis=-1)
        assert sorted(edge) == [0, 3 * 255]

    def test_overlay_blends_palette_and_image(self) -> None:
        labels = np.zeros((3, 9), np.int32)
        labels[:, 5:] = 1
        image = np.full((3, 9, 3), 100, np.uint8)
        seg = segmentation(labels, image)
        palette = label_palette(2).astype(float)
        np.testing.assert_array_equal(seg.overlay(alpha=0.0)[0, 0], [100, 100, 100])
        np.testing.assert_array_equal(seg.overlay(alpha=1.0)[0, 8], palette[1])
        middle = np.rint(0.55 * 100 + 0.45 * palette[0])
        np.testing.assert_allclose(seg.overlay()[0, 0], middle, atol=1)

    @pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
    def test_alpha_out_of_range(self, alpha: float) -> None:
        with pytest.raises(ValueError, match="want 0 to 1"):
            segmentation().overlay(alpha=alpha)

    def test_overlay_of_many_bands_of_floats(self) -> None:
        image = np.random.default_rng(0).normal(size=(3, 3, 7)).astype(np.float32)
        overlay = segmentation(image=image).overlay()
        assert overlay.dtype == np.uint8
        assert overlay.shape == (3, 3, 3)


class TestMetadata:
    def test_says_how_the_result_came_about(self) -> None:
        metadata = segmentation().metadata()
        assert metadata["config"] == {"seed": 7}
        assert metadata["source"] == "photos/x.jpg"
        assert metadata["size"] == {"height": 3, "width": 3, "channels": 3}
        assert metadata["n_labels"] == 3
        assert metadata["areas"] == [5, 2, 2]
        assert metadata["timings"] == {"total": 0.25}
        assert metadata["history"] == [{"step": 1, "loss": 1.5, "n_labels": 3}]
        assert {"dynamicseg", "python", "numpy"} <= set(metadata["versions"])

    def test_numpy_values_and_nan_become_strict_json(self) -> None:
        history = [{"step": np.int64(1), "loss": np.float32("nan"), "weight": float("inf")}]
        metadata = segmentation(history=history).metadata()
        assert metadata["history"] == [{"step": 1, "loss": None, "weight": None}]
        json.dumps(metadata, allow_nan=False)

    def test_torch_is_named_only_if_something_else_imported_it(self) -> None:
        code = "from dynamicseg.segmentation import versions; print(sorted(versions()))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == "['dynamicseg', 'numpy', 'python']"


class TestSave:
    def test_default_set(self, tmp_path: Path) -> None:
        seg = segmentation()
        paths = seg.save(tmp_path / "out", "a/x")
        folder = tmp_path / "out" / "a"
        assert paths == [folder / name for name in ("x_labels.png", "x_overlay.png", "x.json")]
        assert sorted(folder.iterdir()) == sorted(paths)
        np.testing.assert_array_equal(read_label_map(paths[0]), seg.labels)
        np.testing.assert_array_equal(read_image(paths[1]), seg.overlay())
        assert json.loads(paths[2].read_text(encoding="utf-8")) == seg.metadata()

    def test_all_formats_json_last(self, tmp_path: Path) -> None:
        seg = segmentation()
        paths = seg.save(tmp_path, "x", formats=("json", *ALL_FORMATS))
        assert [path.name for path in paths] == NAMES
        np.testing.assert_array_equal(np.load(paths[1]), seg.labels)
        np.testing.assert_array_equal(read_image(paths[2])[..., 0] == 255, seg.boundaries())

    def test_stem_may_contain_a_dot(self, tmp_path: Path) -> None:
        (path,) = segmentation().save(tmp_path, "x.v2", formats="json")
        assert path.name == "x.v2.json"

    def test_paths_are_known_before(self, tmp_path: Path) -> None:
        written = segmentation().save(tmp_path, "x", ALL_FORMATS)
        assert list(output_paths(tmp_path, "x", ALL_FORMATS).values()) == written
        large = output_paths(tmp_path, "x", n_labels=65537)
        assert large["png"].name == "x_labels.tif"

    @pytest.mark.parametrize(
        ("name", "hint"), [("jsn", "; did you mean json?"), ("overlays", "; did you mean overlay?"), ("q", "")]
    )
    def test_unknown_format(self, tmp_path: Path, name: str, hint: str) -> None:
        with pytest.raises(ValueError, match="png, npy, boundaries, overlay, coco, geojson, json") as caught:
            segmentation().save(tmp_path, "x", formats=("png", name))
        assert hint in str(caught.value)
        assert list(tmp_path.iterdir()) == []

    def test_no_format(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no format"):
            segmentation().save(tmp_path, "x", formats=())

    @pytest.mark.parametrize("stem", ["", "../x", "a/../../x", "/x", "a/.."])
    def test_stem_cannot_leave_the_folder(self, tmp_path: Path, stem: str) -> None:
        with pytest.raises(ValueError, match="inside the output folder"):
            segmentation().save(tmp_path / "out", stem)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("failing", ["write_label_map", "write_image", "write_json"])
    @pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
    def test_json_means_that_the_set_is_complete(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        failing: str,
        error: type[BaseException],
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        segmentation().save(tmp_path, "x", ALL_FORMATS)
        assert is_saved(tmp_path, "x", ALL_FORMATS)
        with monkeypatch.context() as patch:
            patch.setattr(dseg, failing, fail)
            with pytest.raises(error):
                segmentation().save(tmp_path, "x", ALL_FORMATS)
        assert not is_saved(tmp_path, "x", ALL_FORMATS)
        assert not (tmp_path / "x.json").exists()
        assert all(path.name in NAMES for path in tmp_path.iterdir())

    def test_is_saved_asks_for_each_format(self, tmp_path: Path) -> None:
        segmentation().save(tmp_path, "x", ("png", "json"))
        assert is_saved(tmp_path, "x", ("png", "json"))
        assert not is_saved(tmp_path, "x", ("png", "json", "overlay"))
        assert not is_saved(tmp_path, "y", ("png", "json"))
        (tmp_path / "x_labels.png").rename(tmp_path / "x_labels.tif")
        assert is_saved(tmp_path, "x", ("png", "json"))

    def test_more_than_65536_labels_are_saved_as_tiff(self, tmp_path: Path) -> None:
        labels = np.arange(65537, dtype=np.int32).reshape(1, -1)
        seg = segmentation(labels)
        (path,) = seg.save(tmp_path, "x", "png")
        assert path.name == "x_labels.tif"
        np.testing.assert_array_equal(read_label_map(path), labels)
