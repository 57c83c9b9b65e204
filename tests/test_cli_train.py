"""``dynamicseg train`` as a user runs it: files, exit status, what is said where."""

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
from PIL import Image

from dynamicseg.trained_model import TrainedModel

COMMAND = [str(Path(sys.executable).with_name("dynamicseg")), "train"]
QUICK = ["--width", "8", "--depth", "1", "--crop-size", "32", "--batch-size", "2", "--n-labels", "5"]
FILES = ["m.safetensors", "m_training.json", "m_training.png"]


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a folder of photos in it."""
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(4):
        image = np.full((40, 48, 3), 60, np.uint8)
        image[: 10 + 5 * number] = 180
        image += random.integers(0, 20, image.shape, np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_a_folder_becomes_a_model_a_log_and_a_curve(photos: Path) -> None:
    done = run("photos", "-o", "m.safetensors", "--steps", 6, "--seed", 2, *QUICK, cwd=photos)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # silence in a pipe
    assert files_in(photos) == FILES
    model = TrainedModel.load(photos / "m.safetensors")
    assert model.description.training["seed"] == 2
    log = json.loads((photos / "m_training.json").read_text())
    assert log["description"] == json.loads(model.description.model_dump_json())
    assert [record["step"] for record in log["history"]] == list(range(1, 7))
    assert log["looks"][-1]["steps"] == 6
    assert log["stopped"] == "steps"
    assert len(log["images"]) == 4
    with Image.open(photos / "m_training.png") as curve:
        assert curve.format == "PNG"


def test_inputs_that_cannot_be_read_are_named_and_the_others_trained_on(photos: Path) -> None:
    (photos / "photos" / "bad.png").write_bytes(b"no image")
    done = run("photos", "gone", "-o", "m.safetensors", "--steps", 4, "-v", *QUICK, cwd=photos)
    assert done.returncode == 1
    assert "dynamicseg: gone: no such file or folder" in done.stderr
    assert "dynamicseg: photos/bad.png: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "labels after 4 steps" in done.stderr
    assert files_in(photos) == FILES
    assert len(json.loads((photos / "m_training.json").read_text())["failures"]) == 2


def test_nothing_to_train_on_leaves_no_file(photos: Path) -> None:
    (photos / "photos" / "bad.png").write_bytes(b"no image")
    for inputs in (["gone"], ["photos/bad.png"]):
        done = run(*inputs, "-o", "m.safetensors", *QUICK, cwd=photos)
        assert done.returncode == 1
        assert "there is no image to train on" in done.stderr
        assert files_in(photos) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos"], "Missing option '-o'"),
        (["photos", "-o", "m.pt"], "m.pt: models are saved as safetensors; end the name in .safetensors"),
        (["photos", "-o", "m.safetensors", "--steps", "0"], "steps wants"),
        (["photos", "-o", "m.safetensors", "--stride", "3"], "stride wants 1, 2 or 4, not 3"),
        (["photos", "-o", "m.safetensors", "--order", "norm"], "order wants 'relu_norm' or 'norm_relu', not 'norm'"),
        (["photos", "-o", "m.safetensors", "--device", "cuda:99"], "device cuda:99"),
        (["photos", "-o", "photos/0.png/m.safetensors"], "photos/0.png: is no folder that can be written to"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(arguments: list[str], words: str, photos: Path) -> None:
    done = run(*arguments, cwd=photos)
    assert done.returncode == 2
    assert done.stderr.startswith("dynamicseg: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert files_in(photos) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_is_carried_on_to_the_same_model(photos: Path, sent: signal.Signals) -> None:
    arguments = ["photos", "--steps", "150", "-v", *QUICK]
    process = subprocess.Popen(
        [*COMMAND, *arguments, "-o", "m.safetensors"], cwd=photos, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 50"):
            process.send_signal(sent)
            break
    said = process.stderr.read()
    assert process.wait(60) == 128 + sent
    assert files_in(photos) == ["m_checkpoint.safetensors"]
    if sent is signal.SIGINT:
        assert said.endswith("dynamicseg: interrupted; the same command with --resume goes on from here\n")
    resumed = run(*arguments, "-o", "m.safetensors", "--resume", cwd=photos)
    assert resumed.returncode == 0, resumed.stderr
    assert "step 50" not in resumed.stderr
    assert files_in(photos) == FILES
    whole = run(*arguments, "-o", "w.safetensors", cwd=photos)
    assert whole.returncode == 0, whole.stderr
    models = [TrainedModel.load(photos / name).network.state_dict() for name in ("m.safetensors", "w.safetensors")]
    assert all(np.array_equal(models[0][name], models[1][name]) for name in models[0])


def test_resume_with_other_options_says_so(photos: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "photos", "-o", "m.safetensors", "--steps", "100000", *QUICK], cwd=photos, stderr=subprocess.DEVNULL
    )
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 128 + signal.SIGINT
    done = run("photos", "-o", "m.safetensors", "--steps", 3, "--resume", *QUICK, cwd=photos)
    assert done.returncode == 1
    assert "m_checkpoint.safetensors: was made with steps 100000, not 3" in done.stderr


def test_the_curve_of_an_earlier_training_is_no_image(photos: Path) -> None:
    for _ in range(2):
        done = run("photos", "-o", "photos/m.safetensors", "--steps", 2, *QUICK, cwd=photos)
        assert done.returncode == 0, done.stderr
    assert len(json.loads((photos / "photos" / "m_training.json").read_text())["images"]) == 4


def test_without_matplotlib_there_is_one_line_and_no_curve(photos: Path) -> None:
    (photos / "hidden").mkdir()
    (photos / "hidden" / "matplotlib.py").write_text("raise ImportError('hidden')")
    done = subprocess.run(
        [*COMMAND, "photos", "-o", "m.safetensors", "--steps", "2", "-v", *QUICK],
        capture_output=True,
        text=True,
        cwd=photos,
        env={**os.environ, "PYTHONPATH": str(photos / "hidden")},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no curve was drawn: that needs matplotlib (pip install matplotlib)" in done.stderr
    assert files_in(photos) == FILES[:2]


def test_a_time_budget_is_kept(photos: Path) -> None:
    done = run("photos", "-o", "m.safetensors", "--time-budget", 4, "--steps", 10**6, *QUICK, cwd=photos)
    assert done.returncode == 0, done.stderr
    log = json.loads((photos / "m_training.json").read_text())
    assert log["stopped"] == "time_budget"
    assert log["history"][-1]["learning_rate"] < 0.02


def test_help_answers_without_torch(photos: Path) -> None:
    code = (
        "import sys\nfrom dynamicseg.cli import app\n"
        "app(args=['train', '--help'], standalone_mode=False)\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, cwd=photos, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--time-budget" in done.stdout
