"""Models that see features of a pretrained network, exported: the backbone is part of the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import skimage.data
import torch
from export_models import a_model, photo_folder
from numpy.typing import NDArray
from test_predict_device import run

import dynamicseg as ds
from dynamicseg.bench.inference import multiplications
from dynamicseg.export import export
from dynamicseg.features.efficientnet import EfficientNetLite0
from dynamicseg.features.planes import FeaturePlanes
from dynamicseg.inference.contract import BACKBONES
from dynamicseg.io import read_label_map, unit_values, write_image
from dynamicseg.model import SegmentationNetwork
from dynamicseg.model_description import BackboneDescription
from dynamicseg.trained_model import TrainedModel

PHOTO: NDArray[np.uint8] = np.ascontiguousarray(skimage.data.chelsea()[::3, ::3])


def with_features(bands: int = 3, **options: Any) -> TrainedModel:
    """A network of ``export_models`` that sees features of a photo, and has its statistics."""
    plain = a_model(bands, feature_planes=0, **options)
    image = torch.from_numpy(unit_values(PHOTO[..., :bands])).permute(2, 0, 1)[None]
    backbone = EfficientNetLite0.load()
    features = FeaturePlanes.fitted_to(backbone, [image])
    network_options = plain.description.network.model_copy(update={"feature_planes": features.projection.planes})
    torch.manual_seed(1)
    network = SegmentationNetwork(bands, plain.description.label_count, network_options, features)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over what it has seen
    with torch.no_grad():
        network(image)
    description = plain.description.model_copy(
        update={
            "network": network_options,
            "receptive_field": None,
            "backbone": BackboneDescription.model_validate(
                {key: backbone.facts[key] for key in ("source", "sha256")}, strict=True
            ),
        }
    )
    return TrainedModel(network.eval().requires_grad_(False), description)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return with_features(stride=2, coordinates=True)


@pytest.fixture(scope="module")
def exported(model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "m.onnx"
    found = export(model, path, images=photo_folder(path.parent / "photos"))
    assert found.agreement is not None
    assert found.agreement > 0.999
    return path


@pytest.mark.parametrize("size", [(1, 1), (9, 1), (16, 17), (37, 64), (100, 150)])
def test_one_graph_gives_the_labels_of_the_model_at_any_size(
    size: tuple[int, int], model: TrainedModel, exported: Path
) -> None:
    piece = np.ascontiguousarray(PHOTO[: size[0], : size[1]])
    expected = model.predict_array(piece)
    assert np.mean(ds.load(exported).predict(piece).labels == expected) > (0.99 if piece.size > 300 else 0)
    assert size != (100, 150) or len(np.unique(expected)) > 1


def test_the_features_matter(model: TrainedModel) -> None:
    features = model.network.features
    assert features is not None
    expected = model.predict_array(PHOTO)
    with torch.inference_mode():
        image = torch.from_numpy(unit_values(PHOTO)).permute(2, 0, 1)[None]
        planes = model.network.input_planes(image)
        planes[:, 3 : 3 + features.projection.planes] = 0
        without = model.network.responses(planes).argmax(dim=1)[0].numpy()
    assert np.mean(without == expected) < 0.9


def test_the_graph_is_as_large_as_its_limits_say(exported: Path) -> None:
    operators = [node.op_type for node in onnx.load(exported).graph.node]
    limits = BACKBONES["efficientnet-lite0"]
    assert operators.count("Conv") == limits.convolutions + 3
    assert "BatchNormalization" not in operators
    assert "Pad" not in operators


def test_the_benchmark_counts_what_the_graph_multiplies(model: TrainedModel, exported: Path) -> None:
    graph = onnx.load(exported).graph
    elements = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    stride, found = {"image": 1}, 0
    for node in graph.node:
        of_node = max((stride[name] for name in node.input if name in stride), default=1)
        if node.op_type == "Conv":
            of_node *= {a.name: a.ints[0] for a in node.attribute if a.ints}.get("strides", 1)
            found += elements[node.input[1]] * (64 * 96 // of_node**2)
        stride[node.output[0]] = 1 if node.op_type == "Resize" else of_node
    expected = multiplications(model.description.model_dump(), (64, 96))
    assert found == pytest.approx(expected, rel=0.02)


def test_a_device_without_pytorch_and_the_extra_predicts(model: TrainedModel, exported: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png", PHOTO)
    done = run(exported, "photo.png", "-o", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    labels = read_label_map(tmp_path / "out" / "photo_labels.png")
    assert np.mean(labels == model.predict_array(PHOTO)) > 0.99


def test_there_are_no_tiles(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = ds.load(exported)
    with pytest.raises(ValueError, match=r"sees features of the whole image, so it cannot .*: leave tile out"):
        predictor.predict(PHOTO, tile=64)
    monkeypatch.setattr(predictor.running, "free_memory", lambda: 1000)
    with pytest.raises(MemoryError, match=r"GB, and this model sees features of the whole image"):
        predictor.predict(PHOTO)


def test_float16_of_one_band_and_one_size(tmp_path: Path) -> None:
    grey = with_features(bands=1)
    photos = photo_folder(tmp_path / "photos", bands=1)
    found = export(grey, tmp_path / "m.onnx", precision="fp16", dynamic=False, size=(90, 101), batch=2, images=photos)
    assert found.agreement is not None
    assert found.agreement > 0.99
    weights = [tensor for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
    piece = np.ascontiguousarray(PHOTO[:90, :101, :1])
    predictor = ds.load(tmp_path / "m.onnx")
    assert np.mean(predictor.predict(piece).labels == grey.predict_array(piece)) > 0.98
    with pytest.raises(ValueError, match="of the whole view"):
        predictor.predict(PHOTO[:80, :80, :1])
