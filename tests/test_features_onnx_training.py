"""Models for many images that see features of a network in an ONNX file: training, its file, prediction, export."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage.data
import torch
from export_models import photo_folder
from onnx import TensorProto, helper
from onnx_backbones import CONVOLUTIONS, MULTIPLICATIONS, backbone
from torch.nn import functional

import dynamicseg as ds
from dynamicseg import training_memory
from dynamicseg.bench.inference import multiplications
from dynamicseg.export import export
from dynamicseg.trained_model import TrainedModel

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::5, ::5])
OPTIONS: dict[str, Any] = {
    "feature_outputs": ["fine", "coarse"],
    "feature_mean": (0.5, 0.4, 0.3),
    "feature_std": (0.2, 0.25, 0.3),
    "feature_multiple": 16,
    "n_labels": 5,
    "width": 8,
    "depth": 2,
    "steps": 3,
    "batch_size": 2,
    "crop_size": 32,
    "superpixel_scale": 0.0,
    "device": "cpu",
    "held_out": 0.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With ``backbone.onnx``, ``m.safetensors`` beside it, and ``photos``."""
    folder = tmp_path_factory.mktemp("models")
    photo_folder(folder / "photos")
    trained(backbone(folder / "backbone.onnx")).save(folder / "m.safetensors")
    return folder


def trained(source: Path, **options: Any) -> TrainedModel:
    return ds.train([PHOTO, PHOTO[::-1]], features=source, **{**OPTIONS, **options})


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_file_holds_projection_options_and_hash_but_no_network_and_no_folder(folder: Path) -> None:
    described = TrainedModel.load(folder / "m.safetensors").description
    assert described.network.feature_planes == 8
    assert described.receptive_field is None
    assert described.backbone is not None
    found = described.backbone.onnx
    assert found is not None
    assert (found.file, found.outputs, found.multiple) == ("backbone.onnx", ("fine", "coarse"), 16)
    assert (found.channels, found.strides, found.largest) == ((8, 16), (4, 8), 3)
    assert found.mean == (0.5, 0.4, 0.3)
    content = (folder / "m.safetensors").read_bytes()
    assert str(folder).encode() not in content
    assert len(content) < 20_000


def test_planes_are_the_projected_maps_of_the_whole_image(folder: Path) -> None:
    features = TrainedModel.load(folder / "m.safetensors").network.features
    assert features is not None
    height, width = PHOTO.shape[:2]
    seen = np.zeros((1, 3, -(-height // 16) * 16, -(-width // 16) * 16), np.float32)
    values = (PHOTO / 255 - (0.5, 0.4, 0.3)) / (0.2, 0.25, 0.3)
    seen[0, :, :height, :width] = values.transpose(2, 0, 1)
    session = onnxruntime.InferenceSession(folder / "backbone.onnx", providers=["CPUExecutionProvider"])
    maps = [torch.from_numpy(one) for one in session.run(["fine", "coarse"], {"x": seen})]
    planes = [
        functional.interpolate(one, scale_factor=stride, mode="bilinear")[0, :, :height, :width]
        for one, stride in zip(features.projection(maps), (4, 8), strict=True)
    ]
    torch.testing.assert_close(features.of_image(PHOTO), torch.cat(planes), rtol=1e-4, atol=1e-5)


def test_the_network_is_looked_for_beside_the_model_or_where_the_user_says(folder: Path, tmp_path: Path) -> None:
    expected = ds.load(folder / "m.safetensors").predict(PHOTO).labels
    alone = tmp_path / "m.safetensors"
    alone.write_bytes((folder / "m.safetensors").read_bytes())
    with pytest.raises(
        ValueError, match=r"put backbone\.onnx beside the model, or name it with --backbone FILE"
    ) as error:
        ds.load(alone)
    assert one_line(error).startswith(str(alone))
    with pytest.raises(ValueError, match=r"none\.onnx is not there: put backbone\.onnx beside"):
        ds.load(alone, backbone=tmp_path / "none.onnx")
    named = ds.load(alone, backbone=folder / "backbone.onnx").predict(PHOTO).labels
    np.testing.assert_array_equal(named, expected)
    assert len(np.unique(expected)) > 1


def test_another_network_is_refused_before_it_is_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.safetensors").write_bytes((folder / "m.safetensors").read_bytes())
    backbone(tmp_path / "backbone.onnx", seed=1)
    monkeypatch.delattr(onnxruntime, "InferenceSession")
    with pytest.raises(ValueError, match=r"trained with features of another network than that in .*\(sha256 ") as error:
        ds.load(tmp_path / "m.safetensors")
    one_line(error)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    def stop(record: Any) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(backbone(tmp_path / "a.onnx"), checkpoint=path, on_step=stop)
    with pytest.raises(ValueError, match="was made with features"):
        trained(backbone(tmp_path / "b.onnx", seed=1), checkpoint=path, resume=True)


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        ({"size": (64, 64)}, {}, r"takes images of 64x64 only .* dynamic height and width, or use it with segment"),
        (
            {"more": [helper.make_node("AveragePool", ["fine"], ["odd"], kernel_shape=[3, 3])], "outputs": ["odd"]},
            {"feature_outputs": ["odd"]},
            r"its output odd is \[8, 30, 46\] for an image of 128x192 .* a whole number of 1 to 128",
        ),
        (
            {"more": [helper.make_node("Odd", ["fine"], ["odd"], domain="elsewhere")], "outputs": ["odd"]},
            {},
            "uses Odd of elsewhere, which is no operator of ONNX",
        ),
        (
            {
                "more": [
                    helper.make_node(
                        "Constant",
                        [],
                        ["odd"],
                        value=onnx.TensorProto(
                            data_type=1,
                            dims=[1],
                            data_location=TensorProto.EXTERNAL,
                            external_data=[onnx.StringStringEntryProto(key="location", value="/etc/passwd")],
                        ),
                    )
                ]
            },
            {},
            "keeps weights in other files, which are never opened: save all of it in one file",
        ),
        ({}, {"feature_outputs": None}, "has outputs to choose from; name its feature maps with feature_outputs"),
        ({}, {"feature_outputs": ["logits"]}, r"its output logits is tensor\(float\)"),
    ],
)
def test_what_no_model_can_be_trained_with_is_one_line(
    made: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = backbone(tmp_path / "b.onnx", **made)
    with pytest.raises(ValueError, match=message) as error:
        trained(path, **options)
    assert one_line(error).startswith(str(path))


def test_features_that_do_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 3 numbers for each pixel in the largest tensor, thrice, in four bytes each; planes are there later.
    needed = 4 * 3 * 3 * PHOTO.shape[0] * PHOTO.shape[1]
    assert training_memory.features_bytes(PHOTO.shape, 3, 0) == needed
    assert training_memory.features_bytes(PHOTO.shape, 3, 8) == needed * 25 // 9
    monkeypatch.setattr(training_memory, "available_on", lambda device: needed - 1)
    with pytest.raises(
        MemoryError, match=r"features of an image of 91x60 pixels take .*no larger than 86 pixels"
    ) as error:
        trained(backbone(tmp_path / "b.onnx"))
    one_line(error)


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    found = export(folder / "m.safetensors", folder / "m.onnx", images=folder / "photos")
    assert found.agreement is not None
    assert found.agreement > 0.999
    return found.path


@pytest.mark.parametrize("size", [(1, 1), (16, 17), (60, 91)])
def test_one_graph_gives_the_labels_of_the_model_at_any_size(
    size: tuple[int, int], folder: Path, exported: Path
) -> None:
    piece = np.ascontiguousarray(PHOTO[: size[0], : size[1]])
    expected = ds.load(folder / "m.safetensors").predict(piece).labels
    assert np.mean(ds.load(exported).predict(piece).labels == expected) > (0.99 if piece.size > 300 else 0)


def test_the_graph_holds_the_network_without_its_classes_and_says_how_large_it_is(exported: Path) -> None:
    model = onnx.load(exported)
    operators = Counter(node.op_type for node in model.graph.node)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert operators["Conv"] == CONVOLUTIONS + 2 + 3  # and two projections, and the network
    assert operators["MaxPool"] == 1
    assert operators["Gemm"] == operators["BatchNormalization"] == 0
    described = ds.load(exported).description
    assert described["backbone"]["onnx"]["convolutions"] == CONVOLUTIONS + 2
    bare = {**described, "backbone": None, "network": {**described["network"], "feature_planes": 0}}
    inputs = 8 * 8 * 4 * 4 * (24 * 32)  # weights for the planes of features
    found = multiplications(described, (48, 64)) - multiplications(bare, (48, 64)) - inputs
    assert found == pytest.approx(MULTIPLICATIONS * 48 * 64, rel=0.01)


def test_more_than_a_description_says_is_refused(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    metadata = json.loads(model.metadata_props[0].value)
    for name, value, words in [
        ("convolutions", 1, "has more layers than its description says"),
        ("strides", ["8"], "damaged description: stride is 8"),
        ("multiple", 0, "damaged description: multiple is 0"),
        ("largest", 1 << 20, "damaged description: largest"),
    ]:
        changed = json.loads(json.dumps(metadata))
        changed["backbone"]["onnx"][name] = value
        helper.set_model_props(model, {"dynamicseg": json.dumps(changed)})
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(ValueError, match=words):
            ds.load(tmp_path / "m.onnx")


def test_int8_leaves_the_backbone_in_float32(folder: Path, tmp_path: Path) -> None:
    chosen: dict[str, Any] = {"precision": "int8", "calibration": folder / "photos", "dynamic": False, "size": (48, 64)}
    found = export(folder / "m.safetensors", tmp_path / "m.onnx", **chosen)
    assert found.agreement is not None
    assert found.agreement > 0.95
    graph = onnx.load(found.path).graph
    weights = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    assert sum(tensor.data_type == TensorProto.INT8 for tensor in weights) == 3
    # Its input and what comes after its two ReLUs: nothing of the backbone.
    assert [node.op_type for node in graph.node].count("QuantizeLinear") <= 4


def test_float16_of_older_operators(folder: Path, tmp_path: Path) -> None:
    old = trained(backbone(tmp_path / "old.onnx", opset=12))
    chosen: dict[str, Any] = {"precision": "fp16", "dynamic": False, "size": (60, 91), "images": folder / "photos"}
    found = export(old, tmp_path / "m.onnx", **chosen)
    weights = [tensor for tensor in onnx.load(found.path).graph.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in weights} == {TensorProto.FLOAT16}
    assert np.mean(ds.load(found.path).predict(PHOTO).labels == old.predict_array(PHOTO)) > 0.98


def test_operators_that_no_exported_graph_has_are_named(tmp_path: Path) -> None:
    softmax = helper.make_node("Softmax", ["fine"], ["soft"], axis=1)
    path = backbone(tmp_path / "b.onnx", more=[softmax], outputs=["soft"])
    model = trained(path, feature_outputs=["soft"])
    assert model.predict_array(PHOTO).shape == PHOTO.shape[:2]
    with pytest.raises(ValueError, match=r"has 1 operator that exported graphs do not have \(Softmax\)") as error:
        export(model, tmp_path / "m.onnx")
    assert one_line(error).startswith(str(path))
    assert not (tmp_path / "m.onnx").exists()


def test_a_backbone_is_for_models_that_want_one(folder: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds all that it needs: leave the backbone out"):
        ds.load(exported, backbone=folder / "backbone.onnx")
    with pytest.raises(ValueError, match="which do not hold it: leave it out"):
        export(exported, tmp_path / "m.engine", format="tensorrt-rtx", backbone=folder / "backbone.onnx")
