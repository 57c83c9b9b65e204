"""``dynamicseg bench inference``: what it measures, and what it says of what it cannot measure."""

from __future__ import annotations

import functools
import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import torch
from PIL import Image
from rich.console import Console
from test_predict_engine import save as save_engine
from test_trained_model import a_model

from dynamicseg.bench import inference, inference_forms
from dynamicseg.io import write_json


def rendered(report: dict[str, Any]) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(inference.table(report))
    return console.export_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    a_model().save(folder / "m.safetensors")
    onnx_models.save(folder / "m.onnx")
    save_engine(folder / "m.engine")
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        # Compiling takes minutes, and what it makes is not ours.
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        patch.setitem(sys.modules, "tensorrt", None)
        models = [folder / f"m.{suffix}" for suffix in ("safetensors", "onnx", "engine")]
        found: dict[str, Any] = inference.run(models, size=(24, 36), repeats=3, threads=1, memory=False)
    torch.compiler.reset()
    return found


def test_every_form_takes_part(report: dict[str, Any]) -> None:
    assert [result["form"] for result in report["results"]] == [
        *("m.safetensors, eager", "m.safetensors, channels last", "m.safetensors, compiled"),
        "m.onnx",
    ]
    assert [result["runtime"]["provider"] for result in report["results"]] == ["eager", "torch", "compiled", "cpu"]
    assert {result["runtime"]["threads"] for result in report["results"]} == {1}
    assert report["environment"]["threads"] == 1
    (skipped,) = report["skipped"]
    assert skipped["form"] == "m.engine"
    assert "engines of this kind need TensorRT" in skipped["reason"]


def test_agreement_is_with_the_first_form(report: dict[str, Any], folder: Path) -> None:
    agreement = [result["agreement"] for result in report["results"]]
    assert agreement[0] == 1.0
    assert min(agreement[1:3]) > 0.999
    photos = inference_forms.photos(None, (24, 36), 3, count=8)
    expected = a_model()
    same = [(expected.predict_array(one) == onnx_models.expected_labels(one)).mean() for one in photos]
    assert agreement[3] == pytest.approx(np.mean(same), abs=1e-3)  # another network altogether


def test_numbers_fit_together(report: dict[str, Any]) -> None:
    first = report["results"][0]["ms"]["p50"]
    for result in report["results"]:
        p50 = result["ms"]["p50"]
        assert 0 < p50 <= result["ms"]["p95"]
        assert result["images_per_second"] == pytest.approx(1e3 / p50)
        assert result["speedup"] == pytest.approx(first / p50)
        assert result["times_limit"] == pytest.approx(p50 / report["limit"]["ms"])
    gflop = 2e-9 * 24 * 36 * (9 * 3 * 6 + 9 * 6 * 6 + 6 * 5)
    assert report["limit"]["gflop"] == pytest.approx(gflop)


def test_multiplications_of_a_network_with_a_stride() -> None:
    description = onnx_models.description(bands=3, labels=7, depth=3, width=8)
    description["network"] |= {"stride": 2, "coordinates": True}
    assert inference.multiplications(description, (5, 8)) == 3 * 4 * (16 * 5 * 8 + 2 * 9 * 8 * 8 + 8 * 7)


def test_the_report_is_json_and_its_table_fits(report: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", report)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    slow = json.loads(json.dumps(report))
    for result in slow["results"]:
        result["ms"] = {"p50": 12345.6, "p95": 23456.7}
        result["peak_bytes"] = 3 << 30
        result["times_limit"] = None
    text = rendered(slow)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for words in ("p95 ms", "12345.6", "3221", "m.engine does not run here: ", "1 thread;"):
        assert words in text


def test_a_batch_of_images_of_a_folder_and_their_memory(folder: Path, tmp_path: Path) -> None:
    for k in range(2):
        Image.fromarray(np.full((20, 70, 3), 60 * k, np.uint8)).save(tmp_path / f"{k}.png")
    found = inference.run([folder / "m.onnx"], size=(24, 36), images=tmp_path, batch=2, repeats=1, threads=1)
    (result,) = found["results"]
    assert result["images_per_second"] == pytest.approx(2e3 / result["ms"]["p50"])
    assert result["peak_bytes"] >= 0
    assert result["agreement"] == 1.0
    assert found["settings"]["images"] == str(tmp_path)


def test_a_compiler_that_fails_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(*_: Any) -> Any:
        raise RuntimeError("\nno compiler here\nand more lines")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    found = inference.run([folder / "m.safetensors"], size=(16, 20), repeats=1, memory=False)
    torch.compiler.reset()
    (skipped,) = found["skipped"]
    assert skipped["form"] == "m.safetensors, compiled"
    assert "no compiler here" in skipped["reason"]
    assert "\n" not in skipped["reason"]


def test_files_of_different_models_are_refused(folder: Path) -> None:
    onnx_models.save(folder / "other.onnx", labels=4)
    with pytest.raises(ValueError, match=r"other.onnx has label_count 4, m.onnx 5: pass files of the same model"):
        inference.run([folder / "m.onnx", folder / "other.onnx"], size=(16, 20), repeats=1)


def test_where_nothing_runs_it_is_said_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(RuntimeError, match=r"m.engine does not run here: engines of this kind need TensorRT"):
        inference.run([folder / "m.engine"], repeats=1)
    module: Any = types.ModuleType("tensorrt")
    module.__version__ = "11.1.0.106"
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(RuntimeError, match=r"m.engine does not run here: .*, here is 11.1.0.106: build it here with"):
        inference.run([folder / "m.engine"], repeats=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (0, 9)}, "size is 0x9"),
        ({"repeats": 0}, "repeats is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"threads": 0}, "threads is 0: pass at least 1"),
    ],
)
def test_run_refuses(arguments: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        inference.run([folder / "m.onnx"], **arguments)
