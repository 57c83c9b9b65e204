"""INT8: Q/DQ nodes by ONNX Runtime's quantizer, with ranges measured on images.

Activations share one scale in each layer, so a channel that is small beside the largest would keep few of its steps:
of the published order, every seventh pixel got another label. ReLU lets positive factors through, so each hidden
channel is divided by its largest value on the images beforehand, and the weights that read it are multiplied by it.
That changes nothing in float32, and leaves one pixel in a hundred.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from dynamicseg.export.folding import convolutions_of
from dynamicseg.export.formats import INPUT, Activations
from dynamicseg.export.onnx import check, quiet
from dynamicseg.model import SegmentationNetwork

_DEAD = 1e-6  # a channel that never exceeds this keeps its size


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Sequence[NDArray[np.uint8]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def quantized(
    model: onnx.ModelProto, images: Sequence[NDArray[np.uint8]], activations: Activations, *, layers: int
) -> tuple[onnx.ModelProto, Mapping[str, Any]]:
    """The same graph with Q/DQ around its convolutions: symmetric weights, a scale for each output channel.

    Args:
        model: float32, of a network from ``equalized``.
        images: ``[H, W, bands]`` each, of the size that the graph takes.
        activations: ``"uint8"``, whose zero is the lowest value after ReLU: half as coarse, and ReLU costs nothing, on
            CPUs; or ``"int8"``, symmetric, as TensorRT wants it, with biases left in float32.
        layers: convolutions of the network. All of a pretrained one comes before them and stays in float32: it is
            not equalized.

    Returns:
        The graph, and what was done, ready for JSON.
    """
    symmetric = activations == "int8"
    first = [number for number, node in enumerate(model.graph.node) if node.op_type == "Conv"][-layers]
    kept = [node.name for node in model.graph.node[:first]]
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, result = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save_model(model, source)
        quantize_static(
            source,
            result,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu"],
            nodes_to_exclude=kept,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Processors without VNNI add pairs of products in 16 bits, which weights of 8 bits would overflow.
            reduce_range=not symmetric,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": not symmetric},
        )
        found = onnx.load_model(result)
    check(found)
    facts = {"activations": activations, "weights": "int8", "calibration": "minimum and maximum", "images": len(images)}
    return found, facts


@torch.no_grad()
def equalized(network: SegmentationNetwork, images: Sequence[NDArray[np.uint8]]) -> SegmentationNetwork:
    """The same folded network with all channels of a hidden layer of one size on these images ``[H, W, bands]``."""
    result = copy.deepcopy(network)
    convolutions = convolutions_of(result)
    for layer, largest in enumerate(_largest_values(result, images)):
        factor = torch.where(largest > _DEAD, largest.max() / largest.clamp_min(_DEAD), torch.ones_like(largest))
        convolutions[layer].weight.mul_(factor[:, None, None, None])
        bias = convolutions[layer].bias
        assert bias is not None
        bias.mul_(factor)
        convolutions[layer + 1].weight.div_(factor[None, :, None, None])
    return result


def _largest_values(network: SegmentationNetwork, images: Sequence[NDArray[np.uint8]]) -> list[torch.Tensor]:
    """Of each channel after each ReLU."""
    largest: list[torch.Tensor] = []
    for image in images:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        x = network.padded(network.input_planes(x))
        layer = 0
        for module in network.layers:
            x = module(x)
            if isinstance(module, torch.nn.ReLU):
                here = x.amax(dim=(0, 2, 3))
                if layer == len(largest):
                    largest.append(here)
                largest[layer] = torch.maximum(largest[layer], here)
                layer += 1
    return largest
