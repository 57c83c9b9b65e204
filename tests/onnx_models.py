"""ONNX files as export writes them, made by hand: small, and with arithmetic that is exact in any order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dynamicseg.io import label_palette

_GREY = 128  # so that a photo has several labels


def description(
    bands: int = 3, labels: int = 5, depth: int = 2, width: int = 4, *, coordinates: bool = False, **changes: Any
) -> dict[str, Any]:
    return {
        "format_version": 1,
        "package_version": "0.1.0",
        "created_with": {},
        "bands": bands,
        "label_count": labels,
        "palette": label_palette(labels).tolist(),
        "label_areas": [1 / labels] * labels,
        "network": {"width": width, "depth": depth, "stride": 1, "dilation_growth": 1, "coordinates": coordinates},
        "receptive_field": None if coordinates else depth,
        "input": "uint8 / 255",
        "training": {},
        "export": {"precision": "fp32"},
        **changes,
    }


def weights(bands: int, labels: int, depth: int, width: int, seed: int = 24) -> list[NDArray[np.float32]]:
    """Of 3x3 convolutions, and of the last one, which is 1x1: small whole numbers, whose sums float32 holds exactly."""
    rng = np.random.default_rng(seed)
    channels = [bands, *[width] * depth]
    shapes = [(channels[k + 1], channels[k], 3, 3) for k in range(depth)] + [(labels, width, 1, 1)]
    return [rng.integers(-2, 3, shape).astype(np.float32) for shape in shapes]


def model(
    *,
    bands: int = 3,
    labels: int = 5,
    depth: int = 2,
    width: int = 4,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    metadata: str | None = None,
    **changes: Any,
) -> onnx.ModelProto:
    """Convolutions with ReLU in between, and the label of the highest response; ``changes`` are of the description."""
    height, columns = size or ("height", "width")
    nodes = [
        helper.make_node("Cast", ["image"], ["bytes"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["bytes", "grey"], ["values"]),
        helper.make_node("Transpose", ["values"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    initializers = [numpy_helper.from_array(np.array(_GREY, np.float32), "grey")]
    for k, numbers in enumerate(weights(bands, labels, depth, width)):
        initializers.append(numpy_helper.from_array(numbers, f"w{k}"))
        pad = numbers.shape[-1] // 2
        nodes.append(helper.make_node("Conv", [f"x{k}", f"w{k}"], [f"z{k}"], pads=[pad] * 4))
        if k < depth:
            nodes.append(helper.make_node("Relu", [f"z{k}"], [f"x{k + 1}"]))
    nodes.append(helper.make_node("ArgMax", [f"z{depth}"], ["index"], axis=1, keepdims=0))
    nodes.append(helper.make_node("Cast", ["index"], ["labels"], to=TensorProto.INT32))
    first = batch or "batch"
    graph = helper.make_graph(
        nodes,
        "labels",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [first, height, columns, bands])],
        [helper.make_tensor_value_info("labels", TensorProto.INT32, [first, height, columns])],
        initializers,
    )
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    text = json.dumps(description(bands, labels, depth, width, **changes)) if metadata is None else metadata
    helper.set_model_props(found, {"dynamicseg": text})
    return found


def save(path: Path, **options: Any) -> Path:
    path.write_bytes(model(**options).SerializeToString())
    return path


def expected_labels(image: NDArray[np.uint8], *, labels: int = 5, depth: int = 2, width: int = 4) -> NDArray[np.int32]:
    """What the model gives for ``[H, W, bands]``, in NumPy and whole numbers."""
    x = image.astype(np.int64) - _GREY
    numbers = weights(image.shape[2], labels, depth, width)
    for k, kernel in enumerate(numbers):
        pad = kernel.shape[-1] // 2
        padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[-2:], axis=(0, 1))
        x = np.einsum("hwcij,ocij->hwo", windows, kernel.astype(np.int64))
        x = np.maximum(x, 0) if k < depth else x
    found: NDArray[np.int32] = x.argmax(axis=2).astype(np.int32)
    return found
