"""The commands as a user runs them: files, exit status, what is said where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import tifffile
from PIL import Image
from terminal import shown_on_terminal

from dynamicseg.io import read_label_map

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])
LONG = ["--min-labels", "1", "--max-steps", "40"]
COMMAND = [str(Path(sys.executable).with_name("dynamicseg"))]


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=120)


def save(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = PHOTO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_photo_becomes_labels_overlay_and_json(tmp_path: Path) -> None:
    done = run("segment", save(tmp_path / "photo.png"), "-o", tmp_path / "out", "--max-steps", 3, "--seed", 2)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # silence in a pipe
    assert files_in(tmp_path / "out") == ["photo.json", "photo_labels.png", "photo_overlay.png"]
    labels = read_label_map(tmp_path / "out" / "photo_labels.png")
    described = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert labels.shape == PHOTO.shape[:2]
    assert described["areas"] == np.bincount(labels.ravel()).tolist()
    assert described["config"]["seed"] == 2
    assert len(described["history"]) == 3
    assert set(described["versions"]) >= {"dynamicseg", "torch", "python"}
    with Image.open(tmp_path / "out" / "photo_overlay.png") as overlay:
        assert (overlay.mode, overlay.size) == ("RGB", PHOTO.shape[1::-1])


def test_files_folders_and_globs_keep_their_places(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a" / "x.png")
    save(tmp_path / "in" / "b" / "x.jpg")
    save(tmp_path / "more" / "y1.png")
    save(tmp_path / "more" / "y2.png")
    done = run("segment", "in", "more/y*.png", "-o", "out", "--max-steps", 1, "-v", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    stems = ["a/x", "b/x", "y1", "y2"]
    assert files_in(tmp_path / "out") == sorted(
        f"{s}{t}" for s in stems for t in (".json", "_labels.png", "_overlay.png")
    )
    assert "4 images in out" in done.stderr
    assert "labels, 1 step" in done.stderr


def test_bad_inputs_are_named_and_the_others_are_finished(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png")
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "nothing.png").touch()
    (tmp_path / "empty").mkdir()
    tifffile.imwrite(
        tmp_path / "stack.tif", np.zeros((5, 20, 30), np.uint8), photometric="minisblack", metadata={"axes": "ZYX"}
    )
    nan = np.zeros((8, 9), np.float32)
    nan[2, 3] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", nan)
    save(tmp_path / "pixel.png", PHOTO[:1, :1])
    (tmp_path / "bomb.png").write_bytes(png_header(60_000, 60_000))
    bad = {
        "text.jpg": "is not an image",
        "cut.png": "damaged or cut short",
        "nothing.png": "is empty (0 bytes)",
        "empty": "holds no images",
        "missing.png": "no such file",
        "stack.tif": "--channel-axis 0",
        "nan.tif": "NaN",
        "pixel.png": "at least 2 pixels",
        "bomb.png": "pixels",
    }
    done = run("segment", *[tmp_path / name for name in bad], good, "-o", tmp_path / "out", "--max-steps", 1)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == len(bad)
    for name, words in bad.items():
        (line,) = [line for line in lines if line.startswith(f"dynamicseg: {tmp_path / name}: ")]
        assert words in line
    assert files_in(tmp_path / "out") == ["good.json", "good_labels.png", "good_overlay.png"]


def png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_stack_of_bands_is_an_image_when_the_axis_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bands.tif"
    tifffile.imwrite(path, np.moveaxis(np.tile(PHOTO, 3), 2, 0), photometric="minisblack")
    assert run("segment", path, "-o", tmp_path / "out", "--max-steps", 1, "--channel-axis", 0).returncode == 0
    assert json.loads((tmp_path / "out" / "bands.json").read_text())["size"]["channels"] == 9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["segment", "x.png"], "missing option '-o' / '--output'"),
        (["segment", "-o", "out"], "missing argument 'INPUT...'"),
        (["segment", "x.png", "-o", "out", "--weightin", "fsf"], "--weighting"),
        (["segment", "x.png", "-o", "out", "--weighting", "fcs"], "'fsf', 'scf' or 'fixed'"),
        (["segment", "x.png", "-o", "out", "--mu", "0"], "--mu wants more than 0"),
        (["segment", "x.png", "-o", "out", "--mu", "nan"], "--mu wants"),
        (["segment", "x.png", "-o", "out", "--max-steps", "few"], "--max-steps"),
        (["segment", "x.png", "-o", "out", "--max-steps", "0"], "--max-steps wants at least 1"),
        (["segment", "x.png", "-o", "out", "--time-budget", "0"], "--time-budget wants more than 0"),
        (["segment", "x.png", "-o", "out", "--max-side", "1"], "--max-side wants at least 2"),
        (["segment", "x.png", "-o", "out", "--n-labels", "0"], "--n-labels wants a whole number, at least 1, not 0"),
        (["segment", "x.png", "-o", "out", "--n-labels", "3", "--min-labels", "2"], "--n-labels is exact"),
        (["segment", "x.png", "-o", "out", "--min-labels", "3", "--max-labels", "2"], "--min-labels wants at most"),
        (["segment", "x.png", "-o", "out", "--max-labels", "some"], "--max-labels"),
        (["segment", "x.png", "-o", "out", "--jobs", "0"], "--jobs"),
        (["segment", "x.png", "-o", "out", "--preset", "papre"], "did you mean paper"),
        (["segment", "x.png", "-o", "out", "--format", "pgn"], "did you mean png?"),
        (["segment", "x.png", "-o", "out", "--device", "gpu"], "auto, cpu, cuda or cuda:N"),
        (["segment", "x.png", "-o", "/dev/null/out"], "/dev/null/out: is no folder that can be written to"),
        (["segmet"], "did you mean segment?"),
        (["bench", "los"], "loss"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.startswith("dynamicseg: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_resume_skips_what_is_done_with_these_settings(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "b.png")
    arguments = ["segment", tmp_path / "in", "-o", tmp_path / "out", "-v", "--resume", "--max-steps"]
    assert run(*arguments, 1).returncode == 0
    (tmp_path / "out" / "b_overlay.png").unlink()
    before = (tmp_path / "out" / "a_labels.png").stat().st_mtime_ns
    second = run(*arguments, 1)
    assert "a.png: done before" in second.stderr
    assert "b.png: done before" not in second.stderr
    assert (tmp_path / "out" / "a_labels.png").stat().st_mtime_ns == before
    assert (tmp_path / "out" / "b_overlay.png").is_file()
    other_settings = run(*arguments, 2)
    assert "done before" not in other_settings.stderr


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_half_written_file(tmp_path: Path, sent: signal.Signals, status: int) -> None:
    save(tmp_path / "first.png")
    save(tmp_path / "second.png", np.tile(PHOTO, (6, 6, 1)))
    process = subprocess.Popen(
        [*COMMAND, "segment", "first.png", "second.png", "-o", "out", "-v", "--preset", "paper", *LONG],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "first.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert files_in(tmp_path / "out") == ["first.json", "first_labels.png", "first_overlay.png"]
    assert "Traceback" not in stderr
    if sent == signal.SIGINT:
        assert "interrupted with 1 of 2 images done" in stderr
        assert "--resume" in stderr


def test_a_time_budget_ends_training_and_the_json_says_so(tmp_path: Path) -> None:
    arguments = ["segment", save(tmp_path / "p.png"), "-o", tmp_path / "out", "-v", "--max-steps"]
    hasty = run(*arguments, 1000, "--time-budget", 1e-6)
    assert (hasty.returncode, "1 step (time is up)" in hasty.stderr) == (0, True)
    assert json.loads((tmp_path / "out" / "p.json").read_text())["stopped"] == "time_budget"
    assert "time is up" not in run(*arguments, 2, "--time-budget", 1e6).stderr
    assert json.loads((tmp_path / "out" / "p.json").read_text())["stopped"] == "max_steps"


def test_the_number_of_labels_can_be_chosen(tmp_path: Path) -> None:
    save(tmp_path / "large.png")
    save(tmp_path / "small.png", PHOTO[:3, :4])
    done = run("segment", "large.png", "small.png", "-o", "out", "--max-steps", 1, "--n-labels", 20, cwd=tmp_path)
    assert len(np.unique(read_label_map(tmp_path / "out" / "large_labels.png"))) == 20
    assert done.returncode == 1  # of the image that cannot have so many
    assert done.stderr.splitlines()[-1] == "dynamicseg: small.png: 20 labels are more than the 12 pixels of the image"


def test_formats_can_be_chosen(tmp_path: Path) -> None:
    save(tmp_path / "p.png")
    run(
        "segment",
        tmp_path / "p.png",
        "-o",
        tmp_path / "out",
        "--max-steps",
        1,
        "--format",
        "npy,boundaries,coco,geojson",
    )
    assert files_in(tmp_path / "out") == ["p.coco.json", "p.geojson", "p_boundaries.png", "p_labels.npy"]


def test_quiet_says_nothing_but_errors(tmp_path: Path) -> None:
    done = run("segment", save(tmp_path / "p.png"), tmp_path / "no.png", "-o", tmp_path / "out", "--max-steps", 1, "-q")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"dynamicseg: {tmp_path / 'no.png'}: no such file or folder"]


def test_info_says_what_is_active_and_why() -> None:
    facts = json.loads(run("info", "--json").stdout)
    assert facts["cpu_backend"].startswith("native kernels")
    assert facts["instruction_set"] in facts["available_instruction_sets"]
    assert "OpenMP" in facts["threads"]
    assert facts["cuda_kernels"].startswith(("yes", "no: "))
    shown = run("info").stdout
    for name in facts:
        assert name.replace("_", " ") in shown


def test_help_answers_without_torch(tmp_path: Path) -> None:
    for arguments in (["--help"], ["segment", "--help"], ["bench", "loss", "--help"], ["--version"]):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, dynamicseg.cli; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert loaded.stdout.strip() == "False"


def test_on_a_terminal_there_is_progress(tmp_path: Path) -> None:

    save(tmp_path / "photo.png", np.tile(PHOTO, (3, 3, 1)))
    text = shown_on_terminal([*COMMAND, "segment", "photo.png", "-o", "out", "--max-steps", "8"], tmp_path)
    assert "photo.png" in text
    assert "labels, loss" in text
    assert "/8" in text
    assert "1 image in out" in text


def test_resume_does_not_take_another_image_for_a_finished_one(tmp_path: Path) -> None:
    save(tmp_path / "a" / "p.png")
    save(tmp_path / "b" / "p.png", PHOTO[::-1])
    arguments = ["-o", tmp_path / "out", "-v", "--resume", "--max-steps", 1]
    assert run("segment", tmp_path / "a" / "p.png", *arguments).returncode == 0
    assert "done before" not in run("segment", tmp_path / "b" / "p.png", *arguments).stderr
    assert "done before" in run("segment", tmp_path / "b" / "p.png", *arguments).stderr
    save(tmp_path / "b" / "p.png", PHOTO[:, ::-1])
    assert "done before" not in run("segment", tmp_path / "b" / "p.png", *arguments).stderr
    without_json = run("segment", tmp_path / "b" / "p.png", *arguments, "--format", "png")
    assert (without_json.returncode, without_json.stderr.count("add json to --format")) == (2, 1)


def test_results_of_an_earlier_run_are_not_taken_for_images(tmp_path: Path) -> None:
    assert run("segment", save(tmp_path / "p.png"), "-o", tmp_path / "out", "--max-steps", 1).returncode == 0
    done = run("segment", tmp_path / "out", "-o", tmp_path / "again", "--max-steps", 1)
    assert done.returncode == 1
    assert "look like results of an earlier run" in done.stderr


@pytest.mark.parametrize("variable", ["DYNAMICSEG_BACKEND", "DYNAMICSEG_INSTRUCTION_SET"])
def test_a_wrong_environment_variable_is_one_line(variable: str) -> None:
    done = subprocess.run(
        [*COMMAND, "info"], capture_output=True, text=True, timeout=60, env={**os.environ, variable: "gpu"}
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"dynamicseg: {variable}")
    assert len(done.stderr.splitlines()) == 1


def test_what_segment_writes_can_be_evaluated(tmp_path: Path) -> None:
    save(tmp_path / "in" / "p.png")
    assert run("segment", tmp_path / "in", "-o", tmp_path / "out", "--max-steps", 1).returncode == 0
    labels = read_label_map(tmp_path / "out" / "p_labels.png")
    save(tmp_path / "truth" / "p.png", (labels % 3).astype(np.uint8))
    done = run(
        *("evaluate", tmp_path / "out", tmp_path / "truth", "--dataset", "labels"),
        *("--protocol", "majority", "--json", tmp_path / "scores.json"),
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]["majority"]
    assert scores["pixel_accuracy"] == 1.0
    missing = run("evaluate", tmp_path / "out", tmp_path / "nowhere", "--dataset", "labels")
    assert (missing.returncode, len(missing.stderr.splitlines())) == (2, 1)
