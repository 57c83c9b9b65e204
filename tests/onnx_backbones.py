"""A tiny network in an ONNX file, with what pretrained ones have: residuals, pools, batch norm, attention, classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONVOLUTIONS = 5  # on the way to the maps
MULTIPLICATIONS = (8 * 3 * 49) / 4 + 8 * 8 * 9 / 16 + 16 * 8 * 9 / 64  # for each pixel, without those of attention


def backbone(
    path: Path,
    *,
    size: Sequence[Any] = ("h", "w"),
    opset: int = 17,
    seed: int = 0,
    more: Sequence[onnx.NodeProto] = (),
    outputs: Sequence[str] = (),
) -> Path:
    """``fine`` has 8 channels of stride 4, ``coarse`` 16 of stride 8; ``more`` nodes give ``outputs``."""
    random = np.random.default_rng(seed)
    shapes = {"w1": (8, 3, 7, 7), "w2": (8, 8, 3, 3), "w3": (16, 8, 3, 3), "w4": (4, 16, 1, 1), "w5": (16, 4, 1, 1)}
    weights = {name: random.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5 for name, shape in shapes.items()}
    weights |= {
        "scale": 1 + 0.1 * random.random(16),
        "zero": np.zeros(16),
        "one": np.ones(16),
        "classes": np.ones((9, 16)),
    }
    halved: dict[str, Any] = {"strides": [2, 2]}
    same: dict[str, Any] = {"pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[3] * 4, **halved),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[3, 3], **halved, **same),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], **same),
        helper.make_node("Add", ["c2", "p1"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["fine"]),
        helper.make_node("Conv", ["fine", "w3"], ["c3"], **halved, **same),
        helper.make_node("BatchNormalization", ["c3", "scale", "zero", "zero", "one"], ["norm"]),
        helper.make_node("GlobalAveragePool", ["norm"], ["mean"]),
        helper.make_node("Conv", ["mean", "w4"], ["c4"]),
        helper.make_node("Relu", ["c4"], ["r4"]),
        helper.make_node("Conv", ["r4", "w5"], ["c5"]),
        helper.make_node("Sigmoid", ["c5"], ["attention"]),
        helper.make_node("Mul", ["norm", "attention"], ["coarse"]),
        helper.make_node("GlobalAveragePool", ["coarse"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "classes"], ["logits"], transB=1),
        *more,
    ]
    channels: list[tuple[str, list[int | None]]] = [
        ("fine", [None, 8, None, None]),
        ("coarse", [None, 16, None, None]),
        ("logits", [None, 9]),
    ]
    channels += [(name, [None, None, None, None]) for name in outputs]
    graph = helper.make_graph(
        nodes,
        "backbone",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in channels],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("elsewhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path
