"""Engines that are really built, with no GPU in the machine."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
from export_models import a_model, photo_folder

from dynamicseg.export import Exported, export, tensorrt
from dynamicseg.export.formats import ExportOptions
from dynamicseg.export.gpu import Gpu, this_gpu
from dynamicseg.export.profile import profile_of
from dynamicseg.model_description import parse_description

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="TensorRT-RTX has wheels for x86-64 alone"
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("rtx")
    model = a_model(order="relu_norm", width=12, steps=3)
    model.save(folder / "m.safetensors")
    export(model, folder / "m.onnx")
    return export(folder / "m.safetensors", folder / "m.engine", format="tensorrt-rtx", batch=4)


def test_an_engine_for_any_size_is_built_with_no_gpu(exported: Exported) -> None:
    plan = exported.path.read_bytes()
    engine = exported.metadata["engine"]
    assert engine["sha256"] == hashlib.sha256(plan).hexdigest()
    # What the parser read, and what the plan itself holds.
    assert engine["tensors"] == {
        "image": {"type": "uint8", "shape": [-1, -1, -1, 3]},
        "labels": {"type": "int32", "shape": [-1, -1, -1]},
    }
    assert b"image" in plan
    assert b"labels" in plan


def test_its_sidecar_is_complete(exported: Exported) -> None:
    written = json.loads((exported.path.parent / "m.engine.json").read_text())
    assert written == json.loads(json.dumps(exported.metadata))
    engine, about = written.pop("engine"), written.pop("export")
    assert parse_description(json.dumps(written)).label_count == 5
    assert (engine["kind"], engine["precision"], engine["flags"]) == ("tensorrt-rtx", "fp32", [])
    assert engine["version"].startswith("1.")
    assert engine["device"] is None
    assert engine["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0"]
    assert engine["profile"] == {"min": [1, 32, 32, 3], "opt": [1, 480, 640, 3], "max": [4, 1088, 1920, 3]}
    assert engine["onnx_sha256"] == about["graph_sha256"]
    assert engine["os"] == platform.platform()
    model = exported.path.with_suffix(".safetensors")
    assert about["model_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert about["graph_agreement"] > 0.999


@pytest.mark.skipif(this_gpu() is not None, reason="there is a GPU here")
def test_it_says_that_it_was_not_run(exported: Exported) -> None:
    assert exported.agreement is None
    assert exported.not_compared == "there is no NVIDIA GPU here to run the engine"
    lines = exported.summary()
    assert "the engine was not run: there is no NVIDIA GPU here" in lines[1]
    assert "its graph gives the labels of the PyTorch model in 100.000 % of the pixels" in lines[2]


def test_an_exported_onnx_file_gives_the_same_engine(exported: Exported, tmp_path: Path) -> None:
    source = exported.path.with_suffix(".onnx")
    again = export(source, tmp_path / "m.engine", format="tensorrt-rtx", batch=4)
    assert again.metadata["engine"]["onnx_sha256"] == exported.metadata["engine"]["onnx_sha256"]
    assert again.metadata["export"]["model_sha256"] == exported.metadata["export"]["model_sha256"]
    with pytest.raises(ValueError, match=r"m\.onnx: is fp32 already: for another precision pass the \.safetensors"):
        export(source, tmp_path / "m16.engine", format="tensorrt-rtx", precision="fp16")


@pytest.mark.parametrize(
    ("precision", "options"),
    [("fp16", {"coordinates": True}), ("int8", {"stride": 2})],
)
def test_other_precisions_and_networks_build_too(precision: str, options: dict[str, Any], tmp_path: Path) -> None:
    photos = photo_folder(tmp_path / "photos")
    model = a_model(width=16, labels=12, steps=10, **options)
    chosen: dict[str, Any] = {"calibration": photos} if precision == "int8" else {"images": photos}
    sizes = {"dynamic": False, "size": (64, 96)} if precision == "int8" else {"compute_capabilities": ("8.9",)}
    found = export(model, tmp_path / "m.engine", format="tensorrt-rtx", precision=precision, **chosen, **sizes)
    engine = found.metadata["engine"]
    assert engine["precision"] == precision
    if precision == "int8":
        assert engine["profile"]["min"] == engine["profile"]["max"] == [1, 64, 96, 3]
        assert found.metadata["export"]["quantization"]["activations"] == "int8"
    else:
        assert engine["compute_capabilities"] == ["8.9"]


def test_what_it_cannot_build_is_refused_before_anything_is_exported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def tried(**options: Any) -> str:
        with pytest.raises(ValueError, match=r"GPU|order") as caught:
            export(a_model(), tmp_path / "m.engine", format="tensorrt-rtx", **options)
        return str(caught.value)

    assert "knows no GPUs of 9.0: choose from 7.5, 8.0" in tried(compute_capabilities=("8.6", "9.0"))
    assert "want to be in this order, not 64x64; 32x32; 1088x1920" in tried(min_size=(64, 64), size=(32, 32))
    monkeypatch.setattr(tensorrt, "this_gpu", lambda: None)
    assert "can be refitted on a GPU alone" in tried(refit=True, compute_capabilities=("8.6",))
    monkeypatch.setattr(tensorrt, "this_gpu", lambda: Gpu("RTX", "8.6", "13.0"))
    assert "if it is for one kind of GPU" in tried(refit=True)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_it_does_not_take_is_refused_in_its_own_words(tmp_path: Path) -> None:
    maker = tensorrt.TensorRTRTX.load()
    options = ExportOptions()
    with pytest.raises(ValueError, match=r"^TensorRT-RTX 1\.\S+ does not take the graph: ."):
        maker.build(b"nonsense", options, profile_of(options, 3), lambda line: None)


def test_progress_is_told(exported: Exported, tmp_path: Path) -> None:
    lines: list[str] = []
    source = exported.path.with_suffix(".onnx")
    export(source, tmp_path / "m.engine", format="tensorrt-rtx", progress=lines.append)
    assert any(line.startswith("building engine: 1 of ") for line in lines)
