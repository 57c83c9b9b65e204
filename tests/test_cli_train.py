"""``dynamicseg train`` as a user runs it: files, exit status, what is said where."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from dynamicseg.cli import main
from dynamicseg.trained_model import TrainedModel

QUICK = ["--width", "8", "--depth", "1", "--crop-size", "32", "--batch-size", "2", "--n-labels", "5"]
FILES = ["m.safetensors", "m_training.json", "m_training.png"]


class Done(NamedTuple):
    """A call that has ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """``run("photos", "-o", ...)``: the command in this process, in the folder ``photos``."""
    monkeypatch.chdir(photos)
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as ended:
            main(["train", *map(str, arguments)])
        said = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, said.out, said.err)

    yield call
    signal.signal(signal.SIGTERM, before)


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


def test_a_folder_becomes_a_model_a_log_and_a_curve(run: Run, photos: Path) -> None:
    done = run("photos", "-o", "m.safetensors", "--steps", 6, "--seed", 2, *QUICK)
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


def test_inputs_that_cannot_be_read_are_named_and_the_others_trained_on(run: Run, photos: Path) -> None:
    (photos / "photos" / "bad.png").write_bytes(b"no image")
    done = run("photos", "gone", "-o", "m.safetensors", "--steps", 4, "-v", *QUICK)
    assert done.returncode == 1
    assert "dynamicseg: gone: no such file or folder" in done.stderr
    assert "dynamicseg: photos/bad.png: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "labels after 4 steps" in done.stderr
    assert files_in(photos) == FILES
    assert len(json.loads((photos / "m_training.json").read_text())["failures"]) == 2


def test_nothing_to_train_on_leaves_no_file(run: Run, photos: Path) -> None:
    (photos / "photos" / "bad.png").write_bytes(b"no image")
    for inputs in (["gone"], ["photos/bad.png"]):
        done = run(*inputs, "-o", "m.safetensors", *QUICK)
        assert done.returncode == 1
        assert "there is no image to train on" in done.stderr
        assert files_in(photos) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["photos"], "missing option '-o'"),
        (["photos", "-o", "m.pt"], "m.pt: models are saved as safetensors; end the name in .safetensors"),
        (["photos", "-o", "m.safetensors", "--steps", "0"], "--steps wants"),
        (["photos", "-o", "m.safetensors", "--stride", "3"], "--stride wants 1, 2 or 4, not 3"),
        (["photos", "-o", "m.safetensors", "--order", "norm"], "--order wants 'relu_norm' or 'norm_relu', not 'norm'"),
        (["photos", "-o", "m.safetensors", "--device", "cuda:99"], "--device cuda:99"),
        (["photos", "-o", "photos/0.png/m.safetensors"], "photos/0.png: is no folder that can be written to"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(arguments: list[str], words: str, run: Run, photos: Path) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("dynamicseg: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert files_in(photos) == []


def test_an_interrupted_training_is_carried_on_to_the_same_model(run: Run, photos: Path) -> None:
    arguments = ["photos", "--steps", "70", "-v", *QUICK]
    command = [str(Path(sys.executable).with_name("dynamicseg")), "train", *arguments, "-o", "m.safetensors"]
    with subprocess.Popen(command, cwd=photos, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("step 50"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 128 + signal.SIGINT
    assert said.endswith("dynamicseg: interrupted; the same command with --resume goes on from here\n")
    assert files_in(photos) == ["m_checkpoint.safetensors"]
    other = run(*arguments, "-o", "m.safetensors", "--resume", "--batch-size", 3)
    assert other.returncode == 1
    assert "m_checkpoint.safetensors: was made with --batch-size 2, not 3" in other.stderr
    resumed = run(*arguments, "-o", "m.safetensors", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "step 50" not in resumed.stderr
    assert files_in(photos) == FILES
    assert run(*arguments, "-o", "w.safetensors").returncode == 0
    models = [TrainedModel.load(photos / name).network.state_dict() for name in ("m.safetensors", "w.safetensors")]
    assert all(np.array_equal(models[0][name], models[1][name]) for name in models[0])


def test_the_curve_of_an_earlier_training_is_no_image(run: Run, photos: Path) -> None:
    for _ in range(2):
        done = run("photos", "-o", "photos/m.safetensors", "--steps", 2, *QUICK)
        assert done.returncode == 0, done.stderr
    assert len(json.loads((photos / "photos" / "m_training.json").read_text())["images"]) == 4


def test_without_matplotlib_there_is_one_line_and_no_curve(
    run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run("photos", "-o", "m.safetensors", "--steps", 2, "-v", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "no curve was drawn: that needs matplotlib (pip install 'dynamicseg[plot]')" in done.stderr
    assert files_in(photos) == FILES[:2]


def test_a_time_budget_is_kept(run: Run, photos: Path) -> None:
    done = run("photos", "-o", "m.safetensors", "--time-budget", 4, "--steps", 10**6, "--held-out", 0, *QUICK)
    assert done.returncode == 0, done.stderr
    log = json.loads((photos / "m_training.json").read_text())
    assert log["stopped"] == "time_budget"
    assert log["history"][-1]["learning_rate"] < 0.02


def test_help_answers_without_torch(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run_python(
        "import sys\nfrom dynamicseg.cli import app\n"
        "app(args=['train', '--help'], standalone_mode=False)\nassert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr
    assert "--time-budget" in done.stdout
