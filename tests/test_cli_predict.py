"""``dynamicseg predict`` as a user runs it: files, exit status, what is said where."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx_models
import pytest
import skimage.data
from PIL import Image
from terminal import shown_on_terminal
from test_trained_model import a_model
from test_video import pictures, write_video

from dynamicseg.io import read_label_map

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])
COMMAND = [str(Path(sys.executable).with_name("dynamicseg")), "predict"]


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, and a folder with two images and a video."""
    onnx_models.save(tmp_path / "m.onnx")
    for name in ("in/a/x.png", "in/b/x.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(PHOTO).save(tmp_path / name)
    write_video(tmp_path / "in" / "film.mkv", pictures(3))
    return tmp_path


def test_folders_are_labelled_with_their_videos_and_resumed(folder: Path) -> None:
    done = run("m.onnx", "in", "-o", "out", "-v", cwd=folder)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert files_in(folder / "out") == [
        *("a/x.json", "a/x_labels.png", "a/x_overlay.png"),
        *("b/x.json", "b/x_labels.png", "b/x_overlay.png"),
        *("film.json", "film_overlay.mp4"),
    ]
    labels = read_label_map(folder / "out" / "a" / "x_labels.png")
    np.testing.assert_array_equal(labels, onnx_models.expected_labels(PHOTO))
    assert "in/a/x.png: 4 of 5 labels, " in done.stderr
    assert "in/film.mkv: 3 frames, " in done.stderr
    assert "3 images in out" in done.stderr

    (folder / "out" / "b" / "x_overlay.png").unlink()
    second = run("m.onnx", "in", "-o", "out", "-v", "--resume", cwd=folder)
    assert second.stderr.count("done before") == 2
    assert "in/b/x.png: done before" not in second.stderr
    onnx_models.save(folder / "m.onnx", depth=3)
    assert "done before" not in run("m.onnx", "in/a", "-o", "out", "-v", "--resume", cwd=folder).stderr


def test_a_trained_model_and_its_options(folder: Path) -> None:
    a_model().save(folder / "m.safetensors")
    done = run("m.safetensors", "in/a/x.png", "-o", "out", "--tile", 20, "--threads", 1, "--device", "cpu", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")  # silence in a pipe
    described = json.loads((folder / "out" / "x.json").read_text())
    assert (described["tile"], described["runtime"]["threads"], described["runtime"]["device"]) == (20, 1, "cpu")


def test_formats_can_be_chosen(folder: Path) -> None:
    assert run("m.onnx", "in/a", "in/film.mkv", "-o", "out", "--format", "png", cwd=folder).returncode == 0
    frames = [f"film_labels/{k:06}.png" for k in range(3)]
    assert files_in(folder / "out") == [*frames, "x_labels.png"]
    boundaries = run("m.onnx", "in", "-o", "more", "--format", "boundaries", cwd=folder)
    assert boundaries.returncode == 1  # of the video, which has no such format
    assert boundaries.stderr == (
        "dynamicseg: in/film.mkv: videos have no format 'boundaries': choose from overlay, png, json\n"
    )


def test_bad_inputs_are_named_and_the_others_are_finished(folder: Path) -> None:
    (folder / "in" / "text.jpg").write_text("hello")
    (folder / "in" / "text.mp4").write_text("hello")
    Image.fromarray(PHOTO[..., 0]).save(folder / "in" / "grey.png")
    done = run("m.onnx", "in", "no.png", "-o", "out", cwd=folder)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    bad = {
        "no.png": "no such file or folder",
        "in/grey.png": "the image has 1 band, the model was trained on 3",
        "in/text.jpg": "is not an image that can be read",
        "in/text.mp4": "cannot be decoded, it is damaged or cut short",
    }
    assert len(lines) == len(bad)
    for line, (name, words) in zip(lines, bad.items(), strict=True):
        assert line.startswith(f"dynamicseg: {name}: ")
        assert words in line
    assert len(files_in(folder / "out")) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m.onnx"], "missing argument 'INPUT...'"),
        (["m.onnx", "in"], "missing option '-o' / '--output'"),
        (["m.onnx", "in", "-o", "out", "--tile", "0"], "--tile wants at least 1 pixel, not 0"),
        (["m.onnx", "in", "-o", "out", "--threads", "0"], "--threads wants a whole number, at least 1, not 0"),
        (["m.onnx", "in", "-o", "out", "--format", "pgn"], "did you mean png?"),
        (["m.onnx", "in", "-o", "out", "--format", "png", "--resume"], "add json to --format"),
        (["m.onnx", "in", "-o", "out", "--provider", "cuda"], "provider cuda is not in this ONNX Runtime"),
        (["m.onnx", "in", "-o", "/dev/null/out"], "/dev/null/out: is no folder that can be written to"),
        (["m.pt", "in", "-o", "out"], "m.pt: its suffix '.pt' names no kind of model"),
        (["no.onnx", "in", "-o", "out"], "no.onnx: no such file"),
        (["in/film.mkv", "in", "-o", "out"], "in/film.mkv: its suffix '.mkv' names no kind of model"),
        (["bad.onnx", "in", "-o", "out"], "bad.onnx: is no ONNX file"),
        (["bad.engine", "in", "-o", "out"], "bad.engine: there is no bad.engine.json beside it"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(arguments: list[str], words: str, folder: Path) -> None:
    for name in ("bad.onnx", "bad.engine"):
        (folder / name).write_text("hello")
    done = run(*arguments, cwd=folder)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("dynamicseg: ")
    assert (len(done.stderr.splitlines()), done.stdout) == (1, "")


def test_an_interrupted_run_leaves_no_half_written_file(folder: Path) -> None:
    write_video(folder / "long.mkv", pictures(400))
    process = subprocess.Popen(
        [*COMMAND, "m.onnx", "in/a/x.png", "long.mkv", "-o", "out"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list((folder / "out").glob(".*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert files_in(folder / "out") == ["x.json", "x_labels.png", "x_overlay.png"]
    assert "interrupted with 1 of 2 images done" in stderr
    assert "Traceback" not in stderr


def test_on_a_terminal_there_is_progress(folder: Path) -> None:
    text = shown_on_terminal([*COMMAND, "m.onnx", "in/film.mkv", "-o", "out"], folder)
    for words in ("film.mkv", "frames", "1 image in out"):
        assert words in text


def test_what_predict_writes_can_be_evaluated(folder: Path) -> None:
    assert run("m.onnx", "in/a", "-o", "out", cwd=folder).returncode == 0
    (folder / "truth").mkdir()
    labels = read_label_map(folder / "out" / "x_labels.png")
    Image.fromarray((labels % 2).astype(np.uint8)).save(folder / "truth" / "x.png")
    arguments = ["evaluate", "out", "truth", "--dataset", "labels", "--protocol", "majority", "--json", "scores.json"]
    done = subprocess.run([COMMAND[0], *arguments], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "scores.json").read_text())["scores"]["majority"]["pixel_accuracy"] == 1.0


def test_forms_of_a_model_are_measured(folder: Path) -> None:
    arguments = ["bench", "inference", "m.onnx", "--size", "24x36", "--repeats", "1", "--no-memory", "--json", "b.json"]
    done = subprocess.run([COMMAND[0], *arguments], capture_output=True, text=True, cwd=folder, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "100.000%" in done.stdout
    (result,) = json.loads((folder / "b.json").read_text())["results"]
    assert result["form"] == "m.onnx"


def test_help_and_prediction_need_no_torch(folder: Path) -> None:
    code = (
        "import sys; from dynamicseg.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'skimage' in sys.modules)"
    )
    for arguments in (["predict", "--help"], ["predict", "m.onnx", "in/a", "-o", "out"]):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
        assert done.stdout.splitlines()[-1] == "0 False False"
