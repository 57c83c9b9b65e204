"""Scribbles, guide and mask of one image: what is taken, what is refused, and what they do to the result."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

import dynamicseg as ds
from dynamicseg.guidance import LabelFile, filled, read_guidance, reduced_scribbles
from dynamicseg.io import read_label_map
from dynamicseg.segmenter import Segmenter

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::6, ::6])
SHAPE = PHOTO.shape[:2]
QUICK: dict[str, Any] = {"max_steps": 3}
PRESETS = ["fast", "quality", "paper"]


def strokes(**labels: tuple[slice, slice]) -> np.ndarray[Any, np.dtype[np.int64]]:
    drawn = np.full(SHAPE, -1, np.int64)
    for name, place in labels.items():
        drawn[place] = int(name[1:])
    return drawn


TWO = strokes(_7=(slice(20, 26), slice(30, 40)), _2=(slice(2, 4), slice(5, 60)))


def picture(path: Path, labels: np.ndarray[Any, Any], none: int = 255) -> Path:
    Image.fromarray(np.where(labels < 0, none, labels).astype(np.uint8)).save(path)
    return path


# ---- what is taken and what is refused -------------------------------------------------------------------------------


def test_files_pictures_and_arrays_say_the_same(tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png", TWO)
    other = picture(tmp_path / "y.png", TWO, none=99)
    palette = Image.open(path).convert("P")
    palette.putdata(Image.open(path).tobytes())
    for scribbles in (TWO, TWO.astype(np.int16), path, str(path), LabelFile(other, 99), Image.open(path), palette):
        found = read_guidance(SHAPE, scribbles=scribbles, channels=100)
        assert found.drawn.tolist() == [2, 7]
        assert found.scribbles is not None
        assert np.array_equal(np.where(found.scribbles < 0, -1, found.drawn[found.scribbles]), TWO)
    mask = PHOTO[..., 0] > 60
    for given in (mask, mask.astype(np.uint8), picture(tmp_path / "mask.png", mask)):
        read = read_guidance(SHAPE, mask=given, channels=100).mask
        assert read is not None
        assert np.array_equal(read, mask)
    assert read_guidance(SHAPE, scribbles=path, channels=100).files["scribbles"]["path"] == str(path)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"scribbles": TWO[:-1]}, ValueError, "scribbles: is 76x49 pixels, the image 76x50: draw"),
        ({"scribbles": np.full(SHAPE, -1)}, ValueError, "scribbles: has no stroke: every pixel is -1"),
        ({"scribbles": TWO - 3}, ValueError, "scribbles: has labels from -4 to 4; want 0 to 65535, and -1 for none"),
        ({"scribbles": TWO * 70000}, ValueError, "scribbles: has labels from -70000 to 490000; want 0 to 65535"),
        ({"scribbles": TWO.astype(float)}, TypeError, "scribbles: has dtype float64; want a path, a PIL image, or"),
        ({"scribbles": TWO[None]}, ValueError, "scribbles: has shape (1, 50, 76); want"),
        ({"scribbles": 5}, TypeError, "scribbles: is a int; want"),
        ({"scribbles": Image.fromarray(PHOTO)}, ValueError, "scribbles: is a PIL image of mode RGB; want a palette"),
        ({"scribbles": np.arange(TWO.size).reshape(SHAPE)}, ValueError, "has 3800 labels, more than the 100"),
        ({"scribbles": TWO >= 0}, ValueError, "scribbles: has a label at every pixel, and nothing is left to segment"),
        ({"scribbles": TWO, "mask": TWO >= 0}, ValueError, "give -1 to pixels where nothing was drawn"),
        ({"scribbles": TWO, "mask": TWO < 0}, ValueError, "scribbles: has strokes only where the mask says"),
        ({"guide": np.full((3, 3), -1)}, ValueError, "guide: has no label"),
        ({"mask": np.zeros(SHAPE, bool)}, ValueError, "mask: leaves 0 pixels of the image; 0 is for"),
        ({"mask": np.ones((4, 4), bool)}, ValueError, "mask: is 4x4 pixels, the image 76x50"),
    ],
)
def test_what_is_wrong_is_one_line(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        read_guidance(SHAPE, channels=100, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_it_is_allowed_all_may_be_drawn() -> None:
    found = read_guidance(SHAPE, scribbles=TWO >= 0, channels=100, drawn_everywhere=True)
    assert found.scribbles is not None
    assert found.drawn.tolist() == [0, 1]
    assert np.array_equal(found.scribbles, TWO >= 0)


def test_files_are_named_in_errors(tmp_path: Path) -> None:
    empty = picture(tmp_path / "empty.png", np.full(SHAPE, -1))
    with pytest.raises(ValueError, match=r"empty\.png: has no stroke: every pixel is 255"):
        ds.segment(PHOTO, scribbles=empty)
    Image.fromarray(PHOTO).save(tmp_path / "colours.png")
    with pytest.raises(ValueError, match=r"colours\.png: "):
        ds.segment(PHOTO, scribbles=tmp_path / "colours.png")
    full = picture(tmp_path / "full.png", TWO.clip(0))
    with pytest.raises(ValueError, match=r"full\.png: has a label at every pixel.* say with --scribble-none"):
        ds.segment(PHOTO, scribbles=full)
    (tmp_path / "no.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(ValueError, match=r"no\.png: "):
        ds.segment(PHOTO, guide=tmp_path / "no.png")
    with pytest.raises(FileNotFoundError, match=r"there\.png: no such file"):
        ds.segment(PHOTO, mask=tmp_path / "there.png")


def test_fewer_labels_than_drawn_cannot_be_had() -> None:
    wanted = "the scribbles have 2 labels, and the result would have 1: allow 2"
    with pytest.raises(ValueError, match=wanted):
        ds.segment(PHOTO, scribbles=TWO, n_labels=1)
    with pytest.raises(ValueError, match=wanted):
        ds.segment(PHOTO, scribbles=TWO, max_labels=1)


def test_thin_strokes_survive_reduction() -> None:
    thin = np.full((300, 400), -1, np.int64)
    thin[17, 20:300] = 1
    thin[:, 33] = 2
    thin[200, 200] = 0
    small = reduced_scribbles(thin, (30, 40))
    assert small.shape == (30, 40)
    assert [int((small == label).sum()) for label in (0, 1, 2)] == [1, 28, 29]  # where two cross, the rarer one
    assert reduced_scribbles(thin, thin.shape) is thin


def test_what_is_no_data_is_filled_with_what_is_beside_it() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6, 1)
    mask = np.ones((4, 6), bool)
    mask[:, 4:] = False
    found = filled(values, mask)
    assert np.array_equal(found[:, :4], values[:, :4])
    assert np.array_equal(found[:, 4:], np.repeat(values[:, 3:4], 2, axis=1))
    assert filled(values, None) is values


def test_a_guide_of_any_size_gives_its_largest_regions() -> None:
    guide = np.repeat(np.arange(6), [8, 1, 5, 4, 3, 9])[:, None].repeat(4, axis=1) * 11 - 1
    found = read_guidance(SHAPE, guide=guide, scribbles=TWO, channels=6).at(SHAPE).guide_channels(6)
    assert found is not None
    assert found.shape == SHAPE
    # Two channels are drawn; of the five regions (the first is negative: none) the smallest has no channel.
    areas = np.bincount(found[found >= 0], minlength=6)
    assert areas[:2].tolist() == [0, 0]
    assert (np.diff(areas[2:]) <= 0).all()
    assert areas[5] > 0
    assert (found[:13] == -1).all()


# ---- what they do ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS)
def test_labels_drawn_keep_their_numbers_and_their_strokes(preset: Any) -> None:
    segmentation = ds.segment(PHOTO, scribbles=TWO, preset=preset, **QUICK)
    assert np.array_equal(segmentation.labels[TWO >= 0], TWO[TWO >= 0])
    found = np.unique(segmentation.labels)
    others = found[~np.isin(found, [2, 7])]
    assert others.tolist() == list(range(8, 8 + len(others)))  # after those drawn, without gaps
    assert (np.diff(segmentation.areas()[8:]) <= 0).all()
    assert segmentation.n_labels == found.max() + 1
    for k in (2, 3, 12):
        exact = ds.segment(PHOTO, scribbles=TWO, preset=preset, n_labels=k, **QUICK).labels
        assert len(np.unique(exact)) == k
        assert np.array_equal(exact[TWO >= 0], TWO[TWO >= 0])


def test_what_is_drawn_grows_over_what_it_means() -> None:
    scene = np.full((60, 80, 3), 60, np.uint8)
    scene[10:50, 10:35] = (200, 60, 40)
    scene[15:45, 45:75] = (40, 80, 210)
    scribbles = np.full((60, 80), -1)
    scribbles[2, 5:70], scribbles[30, 15:25] = 0, 5
    labels = ds.segment(scene, scribbles=scribbles, **QUICK).labels
    assert (labels[10:50, 10:35] == 5).mean() > 0.97
    assert (labels[15:45, 45:75] > 5).mean() > 0.97  # like nothing that was drawn: a label of its own
    assert (labels[:8] == 0).mean() > 0.97
    assert set(np.unique(ds.segment(scene, scribbles=scribbles, n_labels=2, **QUICK).labels)) == {0, 5}


@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_no_data_has_no_label_and_counts_nowhere(preset: Any) -> None:
    mask = np.ones(SHAPE, bool)
    mask[:, 30:34] = False
    mask[40:] = False
    segmentation = ds.segment(PHOTO, mask=mask, scribbles=TWO, preset=preset, n_labels=6, **QUICK)
    assert (segmentation.labels[~mask] == -1).all()
    assert len(np.unique(segmentation.labels[mask])) == 6
    assert segmentation.areas().sum() == mask.sum()
    other = PHOTO.copy()
    other[~mask] = np.random.default_rng(0).integers(0, 256, (int((~mask).sum()), 3))
    assert np.array_equal(
        ds.segment(other, mask=mask, scribbles=TWO, preset=preset, n_labels=6, **QUICK).labels, segmentation.labels
    )


def test_files_say_what_is_no_data(tmp_path: Path) -> None:
    mask = PHOTO[..., 0] > 80
    segmentation = ds.segment(PHOTO, mask=mask, n_labels=5, **QUICK)
    segmentation.save(tmp_path, "x", ("png", "overlay", "npy", "json", "boundaries"))
    saved = read_label_map(tmp_path / "x_labels.png")
    assert (saved[~mask] == 255).all()
    assert np.array_equal(saved[mask], segmentation.labels[mask])
    assert np.array_equal(np.load(tmp_path / "x_labels.npy"), segmentation.labels)
    described = segmentation.metadata()
    assert described["no_data"] == {"pixels": int((~mask).sum()), "number": 255}
    dim = segmentation.overlay()[~mask & ~segmentation.boundaries()]
    assert dim.size
    assert dim.max() <= 80 / 4 + 1 or dim.mean() < PHOTO[~mask].mean() / 2


def test_more_labels_than_a_palette_holds_leave_a_number_for_no_data(tmp_path: Path) -> None:
    mask = np.ones(SHAPE, bool)
    mask[0] = False
    for count, number in ((255, 255), (256, 65535)):
        segmentation = ds.segment(PHOTO, mask=mask, n_labels=count, preset="paper", **QUICK)
        segmentation.save(tmp_path, "x", "png")
        saved = read_label_map(tmp_path / "x_labels.png")
        assert (saved[0] == number).all()
        assert saved[1:].max() == count - 1
        assert segmentation.metadata()["no_data"] == {"pixels": SHAPE[1], "number": number}


def test_reduced_images_keep_strokes_and_mask() -> None:
    mask = np.ones(SHAPE, bool)
    mask[:, -9:] = False
    labels = ds.segment(PHOTO, scribbles=TWO, mask=mask, max_side=40, **QUICK).labels
    assert np.array_equal(labels[TWO >= 0], TWO[TWO >= 0])
    assert np.array_equal(labels < 0, ~mask)


def test_no_stroke_leaves_the_data_where_both_are_reduced() -> None:
    mask = np.array([[0, 0], [1, 1], [1, 1]], bool)
    strokes = np.array([[-1, -1], [3, 3], [-1, -1]])
    small = read_guidance((3, 2), scribbles=strokes, mask=mask, channels=4).at((2, 2))
    assert small.scribbles is not None
    assert small.mask is not None
    assert np.array_equal(small.mask, [[False, False], [True, True]])
    assert np.array_equal(small.scribbles, [[-1, -1], [0, 0]])


def test_the_weight_of_a_guide_fades() -> None:
    guide = np.arange(SHAPE[0])[:, None].repeat(SHAPE[1], axis=1) // 17
    options: dict[str, Any] = {"preset": "paper", "max_steps": 3, "guide_weight": 2.0}
    fading = ds.segment(PHOTO, guide=guide, **options).history
    staying = ds.segment(PHOTO, guide=guide, guide_fades=False, **options).history
    assert fading[0] == staying[0]
    for history, weights in ((fading, (2.0, 1.0, 0.0)), (staying, (2.0, 2.0, 2.0))):
        rest = [one["loss"] - one["similarity"] - one["weight"] * one["continuity"] for one in history]
        assert [part > 1e-3 for part in rest] == [weight > 0 for weight in weights]
    nothing = ds.segment(PHOTO, guide=guide, preset="paper", max_steps=3, guide_weight=0.0).labels
    assert np.array_equal(nothing, ds.segment(PHOTO, preset="paper", max_steps=3, mask=np.ones(SHAPE, bool)).labels)


def test_the_published_loss_gives_way() -> None:
    assert ds.segment(PHOTO, preset="paper", **QUICK).config.loss == "published"
    assert ds.segment(PHOTO, preset="paper", scribbles=TWO, **QUICK).config.loss == "fused"
    for options in ({"continuity": "huber"}, {"diagonals": True}, {"label_floor": 4}):
        segmenter = Segmenter(preset="paper", **options, **QUICK)
        assert segmenter.config.loss == "fused"
        assert segmenter.segment(PHOTO).history[0]["loss"] > 0


def test_prepared_images_with_guidance_can_be_sent_to_another_process() -> None:
    segmenter = Segmenter(**QUICK)
    prepared = segmenter.prepare(PHOTO, scribbles=TWO, mask=PHOTO[..., 0] > 20)
    again = pickle.loads(pickle.dumps(prepared, protocol=5))
    assert again.kind == prepared.kind != segmenter.prepare(PHOTO).kind
    expected = segmenter.finish(prepared, segmenter.train(prepared))
    assert np.array_equal(segmenter.finish(again, segmenter.train(again)).labels, expected.labels)


def test_the_stop_rule_minds_what_is_drawn() -> None:
    rows = np.full(SHAPE, -1)
    for label in range(6):
        rows[8 * label] = label
    segmentation = ds.segment(PHOTO, scribbles=rows, preset="paper", max_steps=25)
    assert all(record["n_labels"] > 6 for record in segmentation.history[:-1])
    assert set(range(6)) <= set(np.unique(segmentation.labels))
