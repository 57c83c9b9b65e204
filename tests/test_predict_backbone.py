"""ONNX files with a pretrained network in them: what it may add to a graph, and no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from test_predict_files import SIDE, node, refusal

from dynamicseg.inference.contract import BACKBONES
from dynamicseg.inference.onnx_file import read_onnx

LIMITS = BACKBONES["efficientnet-lite0"]
BACKBONE = {"source": "efficientnet-lite0", "sha256": "0" * 64}
Change = Callable[[onnx.ModelProto], None]


def described(backbone: Any, planes: int = 8) -> str:
    """The description of a model whose network has features, and a layer more than those of ``onnx_models``."""
    found = onnx_models.description(depth=3, backbone=backbone, receptive_field=None if planes else 3)
    found["network"]["feature_planes"] = planes
    return json.dumps(found)


def saved(folder: Path, change: Change, metadata: str, **options: Any) -> Path:
    model = onnx_models.model(metadata=metadata, **options)
    change(model)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def after(*nodes: onnx.NodeProto, **constants: Any) -> Change:
    """Puts operators behind all others; ``x0`` is the image, channels first."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node.extend(nodes)
        for name, values in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))

    return change


def scaled(by: float) -> dict[str, Any]:
    return {"n": np.array([1, 1, by, by], np.float32)}


CLIPPED = after(node("Clip", "x0"))
# 15 rows and columns more than a kernel of 3 takes away.
WIDER = node("Conv", "x0", "w0", pads=[0, 0, 17, 17], to="wider")
COARSE = node("Conv", "x0", "w0", pads=[1, 1, 1, 1], strides=[8, 8], to="coarse")
ENLARGED = after(COARSE, node("Resize", "coarse", "", "n"), **scaled(8))


@pytest.mark.parametrize("size", [None, (1, 1), (9, 40)])
@pytest.mark.parametrize("change", [CLIPPED, after(WIDER), ENLARGED])
def test_what_a_backbone_adds_is_taken(change: Change, size: tuple[int, int] | None, tmp_path: Path) -> None:
    found = read_onnx(saved(tmp_path, change, described(BACKBONE), size=size))
    assert found.contract.backbone == LIMITS
    assert found.contract.feature_planes == 8
    assert found.contract.radius is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (CLIPPED, "uses Clip as no exported model does"),
        (after(WIDER), "has a Conv of absurd shape"),
        (ENLARGED, "uses Resize as no exported model does"),
    ],
)
def test_a_model_without_one_has_none_of_it(
    change: Change, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnxruntime, "InferenceSession")  # it must not see the file
    assert words in refusal(saved(tmp_path, change, described(None, planes=0)))


def convolutions(count: int) -> Change:
    return after(*(node("Conv", "x0", "w0", pads=[1] * 4, to=f"more{k}") for k in range(count)))


@pytest.mark.parametrize("size", [None, (9, 40)])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (after(WIDER, node("Conv", "x0", "w0", pads=[0, 0, 17, 17])), "has a Conv of absurd shape"),
        (after(node("Conv", "x0", "w0", pads=[0, 0, 18, 2])), "has a Conv of absurd shape"),
        (after(node("Pad", "x0", "n"), n=np.array([0, 0, SIDE, SIDE] * 2)), "uses Pad as no exported model does"),
        (after(COARSE, node("Resize", "coarse", "", "n"), **scaled(32)), "uses Resize as no exported model does"),
        (after(node("Resize", "x0", "", "n"), **scaled(16)), "uses Resize in a way that could take any amount"),
        (after(COARSE, node("Resize", "coarse", "", "n"), n=np.array([8.0], np.float32)), "uses Resize as no"),
        (convolutions(LIMITS.convolutions + 2), "has more layers than its description says"),
        (after(*(node("Relu", "x0", to=f"more{k}") for k in range(300))), "has more layers than its description says"),
        (
            after(helper.make_node("Conv", ["x0", "n"], ["many"]), n=np.zeros((999, 3, 1, 1), np.float32)),
            "uses Conv in a way that could take any amount",
        ),
    ],
)
def test_a_backbone_adds_no_more(
    change: Change, words: str, size: tuple[int, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnxruntime, "InferenceSession")
    assert words in refusal(saved(tmp_path, change, described(BACKBONE), size=size))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (described(None), "a backbone belongs to planes of features"),
        (described(BACKBONE, planes=0), "a backbone belongs to planes of features"),
        (described({"source": "resnet"}), "backbone is resnet, not one of efficientnet-lite0"),
        (described({"source": ["efficientnet-lite0"]}), "backbone is ['efficientnet-lite0'], not one of"),
        (described("efficientnet-lite0"), "backbone is None, not one of"),
    ],
)
def test_a_backbone_that_is_not_known_is_refused(
    metadata: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnxruntime, "InferenceSession")
    text = refusal(saved(tmp_path, lambda model: None, metadata))
    assert "has a damaged description" in text
    assert words in text


# ---- and one from an ONNX file, of which the description says what it adds -------------------------------------------

FOREIGN = {
    "source": "onnx",
    "sha256": "0" * 64,
    "onnx": {"strides": [8, 16], "multiple": 32, "convolutions": 6, "nodes": 20, "largest": 24},
}
PADS = {"n": np.array([0, 0, 0, 0, 0, 0, 31, 31])}


@pytest.mark.parametrize("size", [None, (9, 40)])
@pytest.mark.parametrize(
    "change",
    [
        after(node("Pad", "x0", "n"), **PADS),
        after(node("MaxPool", "x0", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)),
        after(node("GlobalAveragePool", "x0", to="mean"), node("Mul", "mean", "x0")),
        after(node("ReduceMean", "x0", "n"), n=np.array([2, 3])),
        after(node("Transpose", "x0", to="last", perm=[0, 2, 3, 1]), node("MatMul", "last", "n"), n=np.ones((3, 9))),
        after(
            node("GlobalAveragePool", "x0", to="mean"),
            node("Conv", "mean", "n"),
            n=np.zeros((999, 3, 1, 1), np.float32),
        ),
        after(node("Conv", "x0", "w0", auto_pad="SAME_UPPER", strides=[2, 2])),
        after(COARSE, node("Resize", "coarse", "", "n"), **scaled(2)),
    ],
)
def test_operators_of_convolutional_networks_are_taken(
    change: Change, size: tuple[int, int] | None, tmp_path: Path
) -> None:
    path = saved(tmp_path, change, described(FOREIGN), size=size)
    found = read_onnx(path).contract
    assert found.backbone is not None
    assert (found.backbone.strides, found.backbone.multiple) == ((8, 16), 32)
    refusal_of_others = refusal(saved(tmp_path, change, described(BACKBONE), size=size))
    assert "no exported model does" in refusal_of_others


@pytest.mark.parametrize("size", [None, (9, 40)])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (after(node("Pad", "x0", "n"), n=np.array([0, 0, 0, 0, 0, 0, 99, 0])), "uses Pad as"),
        (after(node("Pad", "x0", "n"), n=np.array([0, 9, 0, 0, 0, 0, 1, 1])), "uses Pad as"),
        (after(node("Pad", "x0", "n"), n=np.array([0, 0, -1, 0, 0, 0, 1, 0])), "uses Pad as"),
        (after(*(node("Pad", "x0", "n", to=f"p{k}") for k in range(4)), **PADS), "uses Pad as"),
        (after(node("Pad", "x0", "n", mode="edge"), **PADS), "uses Pad as"),
        (after(node("MaxPool", "x0", kernel_shape=[SIDE, SIDE])), "uses MaxPool as"),
        (after(node("MaxPool", "x0", kernel_shape=[3, 3], pads=[2] * 4)), "uses MaxPool as"),
        (after(node("MaxPool", "x0", kernel_shape=[3, 3], strides=[0, 1])), "uses MaxPool as"),
        (after(node("ReduceMean", "x0", "n", keepdims=0), n=np.array([2])), "uses ReduceMean as"),
        (after(node("MatMul", "x0", "x0")), "uses MatMul as"),
        (after(node("MatMul", "x0", "n"), n=np.ones((40, 9999))), "could take any amount"),
        (after(COARSE, node("Resize", "coarse", "", "n"), **scaled(64)), "uses Resize as"),
        (
            after(node("GlobalAveragePool", "x0", to="mean"), node("MatMul", "mean", "n"), n=np.ones((1, 1 << 17))),
            "could take any amount",
        ),
        (convolutions(8), "has more layers than its description says"),
    ],
)
def test_they_make_no_more_of_an_image_than_the_description_says(
    change: Change, words: str, size: tuple[int, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(onnxruntime, "InferenceSession")
    assert words in refusal(saved(tmp_path, change, described(FOREIGN), size=size))
