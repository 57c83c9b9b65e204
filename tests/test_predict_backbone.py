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
