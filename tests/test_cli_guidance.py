"""``segment`` and ``train`` with scribbles, guide and mask in files: which goes with what, errors, and resuming."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from dynamicseg.guidance import LabelFile
from dynamicseg.guidance_files import find_guidance
from dynamicseg.inputs import find_images
from dynamicseg.io import read_label_map

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])
STROKES = np.full(PHOTO.shape[:2], 255, np.uint8)
STROKES[2, 4:40], STROKES[20:24, 20:30] = 3, 1
COMMAND = [str(Path(sys.executable).with_name("dynamicseg"))]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def save(path: Path, array: np.ndarray[Any, Any] = PHOTO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def found_for(
    folder: Path, *inputs: Path, kind: str = "scribbles"
) -> tuple[dict[str, str], tuple[str, ...], list[str]]:
    """By stem the file below ``folder``; notes; the stems of the inputs that are left."""
    files, found = find_guidance(find_images([str(one) for one in inputs]), {kind: LabelFile(folder)})
    paths = {image.stem: files.of(image).get(kind) for image in found.images}
    named = {stem: file.path.relative_to(folder).as_posix() for stem, file in paths.items() if file is not None}
    return named, files.notes, [image.stem for image in found.images]


def test_files_go_with_inputs_by_their_stems(tmp_path: Path) -> None:
    for name in ("a/x.jpg", "b/x.jpg", "b/y.jpg"):
        save(tmp_path / "in" / name)
    for name in ("a/x.png", "b/x_scribble.png", "b/x.png", "z.png"):
        save(tmp_path / "drawn" / name, STROKES)
    named, notes, _ = found_for(tmp_path / "drawn", tmp_path / "in")
    assert named == {"a/x": "a/x.png", "b/x": "b/x_scribble.png"}
    assert len(notes) == 1
    assert notes[0].endswith("drawn: no scribbles for 1 of the inputs: b/y")


def test_scribbles_beside_their_images_are_no_inputs(tmp_path: Path) -> None:
    save(tmp_path / "x.png")
    save(tmp_path / "y.jpg")
    save(tmp_path / "x_scribbles.png", STROKES)
    save(tmp_path / "y_scribble.png", STROKES)
    named, notes, stems = found_for(tmp_path, tmp_path)
    assert named == {"x": "x_scribbles.png", "y": "y_scribble.png"}
    assert (notes, stems) == ((), ["x", "y"])


def test_an_image_is_never_its_own_guidance(tmp_path: Path) -> None:
    save(tmp_path / "x.png")
    save(tmp_path / "y.png")
    with pytest.raises(ValueError, match=r"holds no mask of any input: want a label image x\.png or x_mask\.png"):
        found_for(tmp_path, tmp_path, kind="mask")


def test_a_file_goes_with_every_input(tmp_path: Path) -> None:
    save(tmp_path / "in" / "x.png")
    save(tmp_path / "in" / "y.png")
    mask = save(tmp_path / "mask.png", STROKES)
    files, found = find_guidance(find_images([str(tmp_path / "in")]), {"mask": LabelFile(mask)})
    assert [files.of(image)["mask"].path for image in found.images] == [mask, mask]
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file or folder"):
        find_guidance(found, {"mask": LabelFile(tmp_path / "nowhere")})


def test_a_folder_is_segmented_with_what_is_known_of_it(tmp_path: Path) -> None:
    save(tmp_path / "in" / "x.png")
    save(tmp_path / "in" / "y.png", PHOTO[::-1])
    save(tmp_path / "drawn" / "x.png", STROKES)
    mask = np.ones_like(STROKES)
    mask[:, -5:] = 0
    save(tmp_path / "mask.png", mask)
    save(tmp_path / "guide" / "y_labels.png", STROKES[::2, ::3])
    arguments: list[object] = ["segment", tmp_path / "in", "-o", tmp_path / "out", "--max-steps", 2, "--resume", "-v"]
    arguments += ["--scribbles", tmp_path / "drawn", "--mask", tmp_path / "mask.png"]
    arguments += ["--guide", tmp_path / "guide", "--guide-ignore", 255]
    arguments += ["--continuity", "huber", "--diagonals", "--label-floor", "auto"]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no scribbles for 1 of the inputs: y") == 1
    labels = read_label_map(tmp_path / "out" / "x_labels.png")
    drawn = (STROKES != 255) & (mask > 0)
    assert np.array_equal(labels[drawn], STROKES[drawn])
    assert (labels[:, -5:] == 255).all()
    x, y = (json.loads((tmp_path / "out" / f"{stem}.json").read_text()) for stem in "xy")
    assert set(x["guidance"]) == {"scribbles", "mask"}
    assert set(y["guidance"]) == {"guide", "mask"}
    assert y["guidance"]["guide"]["none"] == 255
    assert (x["config"]["continuity"], x["config"]["diagonals"], x["config"]["label_floor"]) == ("huber", True, "auto")
    assert 1 <= x["label_floor"] <= 10
    assert run(*arguments).stderr.count("done before") == 2
    save(tmp_path / "drawn" / "x.png", np.where(STROKES == 3, 4, STROKES).astype(np.uint8))
    os.utime(tmp_path / "drawn" / "x.png", (1, 1))
    again = run(*arguments)
    assert again.stderr.count("done before") == 1
    assert 4 in read_label_map(tmp_path / "out" / "x_labels.png")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scribbles", "nowhere"], "nowhere: no such file or folder"),
        (["--label-floor", "0"], "--label-floor wants a whole number, at least 1, or auto, not 0"),
        (["--label-floor", "many"], "--label-floor wants a whole number, at least 1, or auto, not 'many'"),
        (["--continuity", "l2"], "--continuity wants 'l1' or 'huber', not 'l2'"),
        (["--guide-weight", "-1"], "--guide-weight wants"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path: Path, options: list[str], words: str) -> None:
    done = run("segment", save(tmp_path / "x.png"), "-o", tmp_path / "out", *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_one_wrong_file_ends_no_other(tmp_path: Path) -> None:
    for stem in "xyz":
        save(tmp_path / "in" / f"{stem}.png")
    save(tmp_path / "drawn" / "x.png", STROKES[:-1])
    save(tmp_path / "drawn" / "y.png", np.full_like(STROKES, 255))
    save(tmp_path / "drawn" / "z.png", STROKES)
    done = run("segment", tmp_path / "in", "-o", tmp_path / "out", "--max-steps", 1, "--scribbles", tmp_path / "drawn")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert "x.png: is 57x37 pixels, the image 57x38" in lines[0]
    assert "y.png: has no stroke: every pixel is 255" in lines[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["z.json", "z_labels.png", "z_overlay.png"]


def test_a_model_keeps_the_numbers_that_were_drawn(tmp_path: Path) -> None:
    meant = (np.arange(60) < 35).astype(np.uint8)[None].repeat(40, axis=0) * 2 + 1  # 3 on the left, 1 on the right
    random = np.random.default_rng(0)
    for stem in "xyz":
        scene = np.array([(60, 90, 200), (210, 80, 40)])[meant // 2] + random.integers(-9, 10, (40, 60, 3))
        save(tmp_path / "in" / f"{stem}.png", scene.astype(np.uint8))
    strokes = np.full_like(meant, 255)
    strokes[8:30:6] = meant[8:30:6]
    for stem in "xy":
        save(tmp_path / "drawn" / f"{stem}.png", strokes)
    model = tmp_path / "model.safetensors"
    quick = ("--steps", 80, "--crop-size", 32, "--width", 16, "--depth", 2, "--weighting", "fixed", "--mu", 0.5)
    arguments = ("train", tmp_path / "in", "-o", model, "--scribbles", tmp_path / "drawn", *quick)
    done = run(*arguments, "--n-labels", 4)
    assert done.returncode == 0, done.stderr
    # Of an image in which nothing was drawn.
    assert run("predict", model, tmp_path / "in" / "z.png", "-o", tmp_path / "out").returncode == 0
    labels = read_label_map(tmp_path / "out" / "z_labels.png")
    for label in (1, 3):
        assert (labels[meant == label] == label).mean() > 0.6
    refused = run(*arguments, "--n-labels", 3)
    assert refused.returncode != 0
    assert "x.png: draws label 3, but a model of 3 labels has 0 to 2: raise --n-labels" in refused.stderr
