"""Prediction on a small device: only NumPy, Pillow and ONNX Runtime, and nothing else is even looked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_models
import pytest
import skimage.data
from PIL import Image

import dynamicseg
from dynamicseg.io import read_label_map

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])

# Run before anything else of the program. What ONNX Runtime itself imports is its own affair.
DEVICE = """
import importlib.abc, sys

ALLOWED = {"numpy", "PIL", "onnxruntime", "dynamicseg"}

class Device(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package in ALLOWED or package in sys.stdlib_module_names or package.startswith("_"):
            return None
        frame = sys._getframe(1)
        while frame is not None:
            if "onnxruntime" in frame.f_code.co_filename or "/numpy/" in frame.f_code.co_filename:
                return None
            frame = frame.f_back
        raise ImportError(f"this device has no {name}")

sys.meta_path.insert(0, Device())
"""
PREDICT = DEVICE + "import runpy\nrunpy.run_module('dynamicseg.predict', run_name='__main__', alter_sys=True)\n"


def run(*arguments: object, code: str = PREDICT, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    # From the folder of the sources, as on a device to which they were copied: the compiled module is not there either.
    sources = str(Path(dynamicseg.__path__[0]).parent)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": sources},
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx_models.save(tmp_path / "m.onnx")
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    Image.fromarray(PHOTO[:30]).save(tmp_path / "other.jpg")
    return tmp_path


def test_images_are_labelled_with_three_packages(folder: Path) -> None:
    done = run("m.onnx", "photo.png", "other.jpg", "-o", "out", "-v", cwd=folder)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        *("other.json", "other_labels.png", "other_overlay.png"),
        *("photo.json", "photo_labels.png", "photo_overlay.png"),
    ]
    labels = read_label_map(folder / "out" / "photo_labels.png")
    np.testing.assert_array_equal(labels, onnx_models.expected_labels(PHOTO))
    assert "torch" not in json.loads((folder / "out" / "photo.json").read_text())["versions"]


def test_the_same_from_python(folder: Path) -> None:
    code = DEVICE + (
        "import dynamicseg\n"
        "prediction = dynamicseg.load('m.onnx').predict('photo.png', tile=20)\n"
        "assert prediction._repr_png_()[1:4] == b'PNG'\n"
        "prediction.save('out', 'p', ('png', 'overlay', 'json', 'npy', 'boundaries', 'coco', 'geojson'))\n"
        "heavy = {'torch', 'scipy', 'skimage', 'pydantic', 'typer', 'rich'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & heavy))"
    )
    done = run(code=code, cwd=folder)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    np.testing.assert_array_equal(read_label_map(folder / "out" / "p_labels.png"), onnx_models.expected_labels(PHOTO))


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["m.onnx", "photo.png"], 2, "the following arguments are required: -o/--output"),
        (["m.onnx", "photo.png", "-o", "out", "--tile", "x"], 2, "argument --tile: invalid int value: 'x'"),
        (["m.onnx", "photo.png", "-o", "out", "--tile", "0"], 2, "tile wants at least 1 pixel, not 0"),
        (["m.onnx", "photo.png", "-o", "out", "--format", "pgn"], 2, "did you mean png?"),
        (["m.onnx", "photo.png", "-o", "/dev/null/out"], 2, "/dev/null/out: is no folder"),
        (["no.onnx", "photo.png", "-o", "out"], 2, "no.onnx: no such file"),
        (["photo.png", "photo.png", "-o", "out"], 2, "photo.png: its suffix '.png' names no kind of model"),
        (["m.onnx", "photo.png", "-o", "out", "--provider", "cuda"], 2, "provider cuda is not in this ONNX Runtime"),
        (["m.onnx", "no.png", "-o", "out"], 1, "no.png: no such file or folder"),
        (["m.onnx", "m.onnx", "-o", "out"], 1, "m.onnx: is not an image that can be read"),
        (
            ["m.onnx", "bands.tif", "-o", "out"],
            1,
            "bands.tif: is a TIFF, which needs another package: pip install tifffile",
        ),
        (["m.onnx", "film.mp4", "-o", "out"], 1, "film.mp4: videos need PyAV"),
        (["m.safetensors", "photo.png", "-o", "out"], 2, "export the model to ONNX for a device without it"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], status: int, words: str, folder: Path) -> None:
    (folder / "bands.tif").write_bytes(b"II*\x00" + bytes(40))
    (folder / "film.mp4").write_bytes(bytes(40))
    (folder / "m.safetensors").write_bytes(bytes(40))
    done = run(*arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert done.stderr.startswith("dynamicseg: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_command_names_the_call_that_works_here(folder: Path) -> None:
    done = run("predict", "m.onnx", "photo.png", "-o", "out", code=DEVICE + "import dynamicseg.cli", cwd=folder)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("dynamicseg: the command needs a package that is not installed (")
    assert "python -m dynamicseg.predict" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_one_that_fails_does_not_stop_the_others(folder: Path) -> None:
    (folder / "a.png").write_text("hello")
    done = run("m.onnx", ".", "-o", "out", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith("dynamicseg: a.png: is not an image")
    assert len(list((folder / "out").glob("*_labels.png"))) == 2
