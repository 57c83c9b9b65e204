from __future__ import annotations

from pathlib import Path

import pytest
from export_models import a_model, photo_folder

from dynamicseg.cli import main
from dynamicseg.exit_status import DONE, SOME_FAILED, WRONG_CALL


@pytest.fixture
def model(tmp_path: Path) -> str:
    a_model().save(tmp_path / "m.safetensors")
    return str(tmp_path / "m.safetensors")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["export", *arguments])
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def test_a_model_is_exported(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = str(photo_folder(tmp_path / "photos"))
    out = tmp_path / "new" / "m.onnx"
    status, said, errors = run(capsys, model, "--to", "onnx", "-o", str(out), "--images", photos)
    assert status == DONE
    assert errors == ""
    first, second = said.splitlines()
    assert first == f"{out}: ONNX, fp32, {out.stat().st_size} bytes"
    assert second.startswith("labels as the PyTorch model in 100.000 % of the pixels, by onnxruntime ")
    assert [file.name for file in out.parent.iterdir()] == ["m.onnx"]
    assert run(capsys, model, "-o", str(out), "--images", photos, "-q") == (DONE, "", "")


WRONG = [
    (["--to", "tensort", "-o", "m.onnx"], "did you mean tensorrt?"),
    (["-o", "m.engine"], "choose --to tensorrt or --to tensorrt-rtx"),
    (["-o", "m.onnx", "--refit"], "ONNX takes no refit; only tensorrt and tensorrt-rtx do"),
    (["-o", "m.onnx", "--static", "--size", "321"], "--size 321: wants HEIGHTxWIDTH"),
    (["-o", "m.onnx", "--precision", "int8"], "--precision int8 --calibration DIR"),
    (["-o", "m.onnx", "--opset", "seventeen"], "--opset wants a whole number"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_wrong_call_is_one_line_and_status_2(
    arguments: list[str], message: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said, errors = run(capsys, model, *arguments)
    assert (status, said) == (WRONG_CALL, "")
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_a_model_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, errors = run(capsys, str(tmp_path / "m.safetensors"), "-o", str(tmp_path / "m.onnx"))
    assert status == WRONG_CALL
    assert errors == f"dynamicseg: {tmp_path}/m.safetensors: no such file\n"


def test_too_little_agreement_is_status_1(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = a_model(seed=2)
    monkeypatch.setattr("dynamicseg.export.graph.onnx_labels", lambda content, batch: other.predict_array)
    status, said, errors = run(capsys, model, "-o", str(tmp_path / "out" / "m.onnx"))
    assert (status, said) == (SOME_FAILED, "")
    assert "no file was written" in errors
    assert list((tmp_path / "out").iterdir()) == []
