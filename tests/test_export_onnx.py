from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from export_models import ARCHITECTURES, a_model, photo, photo_folder
from numpy.typing import NDArray

from dynamicseg.export import Exported, export
from dynamicseg.export.formats import INPUT, OUTPUT
from dynamicseg.model_description import parse_description

Run = Callable[[NDArray[np.uint8]], NDArray[np.int32]]


def runner(path: Path) -> Run:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run([OUTPUT], {INPUT: images})[0])


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("options", ARCHITECTURES[1:5])
def test_one_file_gives_the_labels_of_the_model_at_any_size(options: dict[str, Any], tmp_path: Path) -> None:
    model = a_model(**options)
    exported = export(model, tmp_path / "m.onnx", images=photo_folder(tmp_path / "photos"))
    assert exported.agreement is not None
    assert exported.agreement > 0.999
    run = runner(tmp_path / "m.onnx")
    image = photo()
    for height, width in [(1, 1), (1, 9), (9, 1), (13, 22), (96, 120)]:
        piece = np.ascontiguousarray(image[:height, :width])
        labels = run(piece[None])
        assert labels.dtype == np.int32
        assert labels.shape == (1, height, width)
        assert np.mean(labels[0] == model.predict_array(piece)) > 0.999 or height * width < 1000
    both = run(np.stack([image, image[::-1]]))
    assert np.array_equal(both[1], run(image[::-1].copy()[None])[0])
    graph = onnx.load(tmp_path / "m.onnx")
    assert {node.domain for node in graph.graph.node} == {""}
    assert "BatchNormalization" not in operators(tmp_path / "m.onnx")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("onnx")
    a_model().save(folder / "m.safetensors")
    return export(folder / "m.safetensors", folder / "m.onnx")


def test_the_graph_is_as_short_as_the_network(exported: Exported) -> None:
    layers = ["Conv", "Relu", "Conv", "Relu", "Conv"]
    assert operators(exported.path) == ["Cast", "Div", "Transpose", *layers, "ArgMax", "Cast"]


def test_input_and_output_are_those_of_the_contract(exported: Exported) -> None:
    graph = onnx.load(exported.path).graph
    described = [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        )
        for value in (*graph.input, *graph.output)
    ]
    assert described == [
        ("image", onnx.TensorProto.UINT8, ["batch", "height", "width", 3]),
        ("labels", onnx.TensorProto.INT32, ["batch", "height", "width"]),
    ]


def test_the_file_says_what_it_is(exported: Exported) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    metadata = json.loads(properties["dynamicseg"])
    assert metadata == json.loads(json.dumps(exported.metadata))
    about = metadata.pop("export")
    assert parse_description(json.dumps(metadata)) == a_model().description
    model_file = exported.path.with_suffix(".safetensors")
    assert about["model_sha256"] == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert (about["precision"], about["opset"], about["dynamic"]) == ("fp32", 20, True)
    assert about["agreement"] == exported.agreement
    assert about["min_agreement"] == 0.999
    assert about["compared_by"] == f"onnxruntime {onnxruntime.__version__}"
    assert about["images"] == {"count": 3, "source": "3 photos that scikit-image carries"}
    assert {"dynamicseg", "torch", "onnx", "onnxruntime", "onnxslim"} <= set(about["versions"])


def test_a_static_file_takes_its_size_alone(tmp_path: Path) -> None:
    model = a_model(stride=2)
    export(model, tmp_path / "m.onnx", dynamic=False, size=(31, 40), batch=2, images=photo_folder(tmp_path / "photos"))
    run = runner(tmp_path / "m.onnx")
    piece = photo()[:31, :40]
    labels = run(np.stack([piece, piece]))
    assert np.mean(labels[1] == model.predict_array(piece)) > 0.999
    with pytest.raises(Exception, match="invalid dimensions"):
        run(piece[None])


def test_float16_is_in_the_weights_and_not_at_the_ends(tmp_path: Path) -> None:
    # Bands other than three, and so many rows that counting them in float16 would fail.
    model = a_model(bands=5, coordinates=True)
    found = export(model, tmp_path / "m.onnx", precision="fp16")
    assert found.metadata["export"]["precision"] == "fp16"
    assert found.agreement is not None
    assert found.agreement > 0.99
    graph = onnx.load(tmp_path / "m.onnx").graph
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    tall = np.ascontiguousarray(np.tile(photo(5)[:, :20], (40, 1, 1)))
    assert np.mean(runner(tmp_path / "m.onnx")(tall[None])[0] == model.predict_array(tall)) > 0.98


@pytest.mark.parametrize("options", [{"order": "relu_norm"}, {"order": "norm_relu", "stride": 2}])
def test_int8_agrees_and_says_how_far(options: dict[str, Any], tmp_path: Path) -> None:
    model = a_model(width=16, labels=12, steps=10, **options)
    photos = photo_folder(tmp_path / "photos")
    found = export(model, tmp_path / "m.onnx", precision="int8", calibration=photos)
    about = found.metadata["export"]
    labels = runner(tmp_path / "m.onnx")(photo()[None])[0]
    share = np.mean(labels == model.predict_array(photo()))
    assert 0.95 < share <= 1
    assert abs(share - about["agreement"]) < 0.03
    assert about["images"] == {"count": 2, "source": "2 of 2 images in the folder photos"}
    assert about["quantization"]["activations"] == "uint8"
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(operators(tmp_path / "m.onnx"))
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.INT8}
    # Where pairs of products are added in 16 bits, more would overflow.
    assert all(np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() <= 64 for tensor in weights)


def test_int8_for_tensorrt_is_symmetric_with_biases_as_they_are(tmp_path: Path) -> None:
    photos = photo_folder(tmp_path / "photos")
    model = a_model(width=16, labels=12, steps=10)
    export(model, tmp_path / "m.onnx", precision="int8", calibration=photos, activations="int8")
    tensors = {tensor.name: tensor for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
    zeros = [onnx.numpy_helper.to_array(tensor) for name, tensor in tensors.items() if name.endswith("zero_point")]
    assert zeros
    assert all(zero.dtype == np.int8 for zero in zeros)
    assert not any(zero.any() for zero in zeros)
    assert onnx.TensorProto.INT32 not in {tensor.data_type for tensor in tensors.values()}


def test_the_same_model_gives_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    export(exported.path.with_suffix(".safetensors"), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.path.read_bytes()
