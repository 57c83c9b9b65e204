"""What is no model, or no longer one, is refused in one line; what is written is written whole."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_models import a_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamicseg.export import export
from dynamicseg.export.description import read_exported
from dynamicseg.inference.contract import METADATA_KEY


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("files") / "m.onnx"
    export(a_model(), path)
    return path.read_bytes()


def refusal(path: Path) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        read_exported(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_changed_bytes_is_refused_or_means_the_same(
    exported: bytes, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(exported)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(content))
    try:
        graph, _, _ = read_exported(path)
    except ValueError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:  # only the description may have changed
        assert graph.graph == onnx.ModelProto.FromString(exported).graph


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=200))
def test_any_bytes_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refusal(path)


Change = Callable[[onnx.ModelProto], None]


def external(graph: onnx.ModelProto) -> None:
    tensor = graph.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")


def external_inside(graph: onnx.ModelProto) -> None:
    attribute = graph.graph.node.add(op_type="Constant").attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.external_data.add(key="location", value="/etc/passwd")


def foreign(graph: onnx.ModelProto) -> None:
    del graph.metadata_props[:]


def other_weights(graph: onnx.ModelProto) -> None:
    tensor = graph.graph.initializer[0]
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(1), tensor.name))


def edited(graph: onnx.ModelProto, **changes: object) -> None:
    metadata = json.loads(graph.metadata_props[0].value)
    graph.metadata_props[0].value = json.dumps({**metadata, **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "in other files"),
        (external_inside, "uses the operator 'Constant'"),
        (foreign, "is a foreign ONNX file"),
        (other_weights, "is damaged, or was changed after dynamicseg export wrote it"),
        (lambda graph: edited(graph, format_version=2), "is of format version 2, this DynamicSeg reads 1"),
        (lambda graph: edited(graph, bands="three"), "has a damaged description: bands is three"),
        (lambda graph: edited(graph, export=None), "its description is damaged"),
    ],
)
def test_a_file_that_was_changed_is_refused(change: Change, message: str, exported: bytes, tmp_path: Path) -> None:
    graph = onnx.ModelProto.FromString(exported)
    assert graph.metadata_props[0].key == METADATA_KEY
    change(graph)
    path = tmp_path / "m.onnx"
    path.write_bytes(graph.SerializeToString())
    assert message in refusal(path)


def test_what_is_no_file_or_no_model_is_refused(tmp_path: Path, exported: bytes) -> None:
    assert "no such file" in refusal(tmp_path / "none.onnx")
    (tmp_path / "m.onnx").write_bytes(b"")
    assert "is empty" in refusal(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"m\.pt: is no model: pass a \.safetensors file"):
        export(tmp_path / "m.pt", tmp_path / "out.onnx")
    (tmp_path / "m.safetensors").write_bytes(exported)
    with pytest.raises(ValueError, match=r"m\.safetensors: is no safetensors file"):
        export(tmp_path / "m.safetensors", tmp_path / "out.onnx")
    (tmp_path / "m.onnx").write_bytes(exported)
    with pytest.raises(ValueError, match=r"m\.onnx: is ONNX already"):
        export(tmp_path / "m.onnx", tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_without_its_packages_export_says_how_to_install_them(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    a_model().save(tmp_path / "m.safetensors")
    call = f"main(['export', {str(tmp_path / 'm.safetensors')!r}, '-o', {str(tmp_path / 'm.onnx')!r}])"
    result = run_python(f"import sys; sys.modules['onnx'] = None; from dynamicseg.cli import main; {call}")
    assert result.returncode == 2
    assert result.stderr.startswith("dynamicseg: ONNX needs a package that is not installed")
    assert result.stderr.endswith("pip install 'dynamicseg[export]'\n")


def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file: cannot be made or written to"):
        export(a_model(), tmp_path / "file" / "m.onnx")
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(IsADirectoryError, match=r"m\.onnx: is a folder; name a file"):
        export(a_model(), tmp_path / "m.onnx")
    assert sorted(os.listdir(tmp_path)) == ["file", "m.onnx"]
