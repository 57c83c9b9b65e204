"""The animated GIF of how labels come about, and the hook that it is made with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from test_segmentation import segmentation

import dynamicseg as ds
from dynamicseg.evolution import Evolution, check_file
from dynamicseg.inputs import InputImage
from dynamicseg.io import label_palette

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])
COMMAND = [str(Path(sys.executable).with_name("dynamicseg")), "segment"]


def record(step: int, n_labels: int = 4) -> dict[str, Any]:
    return {"step": step, "n_labels": n_labels, "weight": 0.25}


def frames_of(path: Path) -> list[tuple[NDArray[np.uint8], int]]:
    with Image.open(path) as gif:
        return [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]


class TestFrames:
    def test_labels_keep_their_colours_and_the_result_is_held(self, tmp_path: Path) -> None:
        labels = np.zeros((400, 500), np.int64)
        labels[:, 250:] = 7
        labels[:100, :100] = -1
        evolution = Evolution(max_steps=2)
        evolution.see(record(1), labels)
        evolution.see(record(2), np.zeros_like(labels))
        evolution.save(tmp_path / "x.gif", segmentation(labels.clip(0)))
        (first, first_ms), (second, second_ms), (result, held_ms) = frames_of(tmp_path / "x.gif")
        assert first.shape == second.shape == result.shape
        assert first.shape[1] == 500 < first.shape[0] + 100  # the text is below
        colours = label_palette(8)
        assert first[300, 400].tolist() == colours[7].tolist()
        assert first[300, 100].tolist() == second[300, 400].tolist() == colours[0].tolist()
        assert first[50, 50].tolist() == [0, 0, 0]
        assert first_ms == second_ms < held_ms
        assert (first[400:] != second[400:]).any()  # another step is written there
        assert (first[400:] == 0).any()
        assert (first[400:, :, :] == 255).any()

    def test_a_thousand_steps_are_few_frames_most_of_them_early(self, tmp_path: Path) -> None:
        evolution = Evolution(max_steps=1000)
        for step in range(1, 1001):
            # Other labels in each, for a GIF joins frames that are equal.
            evolution.see(record(step), np.full((4, 4), step % 90))
        evolution.save(tmp_path / "x.gif", segmentation(np.zeros((4, 4), int)))
        frames = frames_of(tmp_path / "x.gif")
        assert 25 <= len(frames) <= 40
        steps = sorted(evolution._steps)
        assert steps[:4] == [1, 2, 3, 4]
        assert steps[-1] == 1000
        assert sum(step <= 100 for step in steps) > len(steps) / 2

    @pytest.mark.parametrize(
        ("shape", "size"), [((1300, 2600), (320, 640)), ((30, 40), (240, 320)), ((1, 2000), (1, 640)), ((640, 2), None)]
    )
    def test_pictures_are_neither_large_nor_tiny(
        self, tmp_path: Path, shape: tuple[int, int], size: tuple[int, int] | None
    ) -> None:
        labels = np.zeros(shape, np.int64)
        evolution = Evolution(max_steps=1)
        evolution.see(record(1), labels)
        evolution.save(tmp_path / "x.gif", segmentation(labels))
        (frame, _), _ = frames_of(tmp_path / "x.gif")
        below = 26
        if size is None:  # a narrow one stands in the middle above its text
            assert frame.shape[0] == 640 + below
            assert 100 < frame.shape[1] <= 640
        else:
            assert frame.shape[:2] == (size[0] + below, max(size[1], frame.shape[1]))
            assert frame.shape[1] <= 640

    def test_more_labels_than_colours(self, tmp_path: Path) -> None:
        labels = np.arange(400).reshape(20, 20)
        evolution = Evolution(max_steps=1)
        evolution.see(record(1), labels)
        evolution.save(tmp_path / "x.gif", segmentation(labels))
        assert len(frames_of(tmp_path / "x.gif")) == 2


class TestHook:
    @pytest.mark.parametrize("preset", ["fast", "paper"])
    def test_who_watches_changes_nothing(self, preset: str) -> None:
        told: list[tuple[int, int]] = []

        def on_labels(record: ds.trainer.StepRecord, labels: NDArray[np.int64]) -> None:
            assert labels.shape == PHOTO.shape[:2]
            told.append((record["step"], len(np.unique(labels))))

        watched = ds.segment(PHOTO, preset=preset, max_steps=4, on_labels=on_labels)
        alone = ds.segment(PHOTO, preset=preset, max_steps=4)
        np.testing.assert_array_equal(watched.labels, alone.labels)
        assert watched.history == alone.history
        assert told == [(step["step"], step["n_labels"]) for step in alone.history]

    def test_no_data_has_no_label(self) -> None:
        mask = np.ones(PHOTO.shape[:2], np.bool_)
        mask[:9] = False
        seen = []
        ds.segment(PHOTO, max_steps=1, mask=mask, on_labels=lambda _, labels: seen.append(labels.copy()))
        np.testing.assert_array_equal(seen[0] >= 0, mask)


class TestCommand:
    def test_one_photo_becomes_a_gif_and_the_same_labels(self, tmp_path: Path) -> None:
        Image.fromarray(PHOTO).save(tmp_path / "photo.png")
        call = [*COMMAND, "photo.png", "--max-steps", "3", "--format", "npy,json", "-v"]
        with_gif = [*call, "-o", "out", "--save-evolution", "new/photo.gif"]
        done = subprocess.run(with_gif, capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "photo_labels.npy, new/photo.gif" in done.stderr
        assert len(frames_of(tmp_path / "new" / "photo.gif")) == 4
        plain = ds.segment(tmp_path / "photo.png", max_steps=3)
        np.testing.assert_array_equal(np.load(tmp_path / "out" / "photo_labels.npy"), plain.labels)

        (tmp_path / "new" / "photo.gif").unlink()
        again = subprocess.run([*with_gif, "--resume"], capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert "done before" not in again.stderr
        assert (tmp_path / "new" / "photo.gif").exists()

    def test_a_mistake_is_one_line(self, tmp_path: Path) -> None:
        images = []
        for name in ("a.png", "b.png"):
            Image.fromarray(PHOTO).save(tmp_path / name)
            images.append(tmp_path / name)
        call = [*COMMAND, *map(str, images), "-o", str(tmp_path / "out"), "--save-evolution", str(tmp_path / "x.gif")]
        done = subprocess.run(call, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines() == [
            f"dynamicseg: {tmp_path / 'x.gif'}: the evolution of one image goes into a file, and there are 2 images: "
            "name one of them"
        ]
        assert not (tmp_path / "x.gif").exists()

    @pytest.mark.parametrize(("name", "words"), [("x.mp4", "end the name in .gif"), ("in.gif", "is the image itself")])
    def test_other_files(self, tmp_path: Path, name: str, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            check_file(tmp_path / name, [InputImage(tmp_path / "in.gif", "in")])

    def test_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "x.gif").mkdir()
        with pytest.raises(ValueError, match="is a folder"):
            check_file(tmp_path / "x.gif", [])
