"""The graph that is exported: uint8 image in, label map out, in standard ONNX operators, through ``torch.export``."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator

import onnx
import onnxslim
import torch
from torch import Tensor, nn

from dynamicseg._words import in_one_line
from dynamicseg.export.backbone import Placeholder, inlined
from dynamicseg.export.formats import INPUT, OUTPUT
from dynamicseg.features.onnx_maps import OnnxMaps
from dynamicseg.model import SegmentationNetwork

OPSET = 20
"""The newest that TensorRT 10.3 reads."""

# torch.export takes a size of 1 for a constant, and equal sizes for the same one.
_EXAMPLE = (2, 24, 40)


class Deployed(nn.Module):
    """A network between bytes and labels.

    Args:
        network: folded, in evaluation mode, float32.
        half: compute in float16; but coordinates, which count pixels, are made in float32.
    """

    def __init__(self, network: SegmentationNetwork, *, half: bool) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.dtype = torch.float16 if half else torch.float32
        self.network.layers.to(self.dtype)
        self.features = self.network.features  # which is no part of the network for PyTorch
        if self.features is not None:
            if isinstance(self.features.backbone, OnnxMaps):
                self.features.backbone = Placeholder(self.features.backbone)
            for part in (self.features.backbone, self.features.projection):
                assert isinstance(part, nn.Module)
                part.to(self.dtype)
            self.features.dtype = self.dtype

    def forward(self, image: Tensor) -> Tensor:
        """``[B, H, W, bands]`` uint8 to ``[B, H, W]`` int32."""
        network = self.network
        planes = network.input_planes((image.float() / 255).permute(0, 3, 1, 2)).to(self.dtype)
        response = network.enlarged(network.layers(network.padded(planes)), planes)
        return response.argmax(dim=1).to(torch.int32)


def onnx_model(
    network: SegmentationNetwork,
    bands: int,
    *,
    half: bool = False,
    shape: tuple[int, int, int] | None = None,
    opset: int = OPSET,
) -> onnx.ModelProto:
    """The graph of a network, simplified and checked.

    Args:
        network: folded, see ``folding.folded``.
        bands: of the images that it takes.
        half: in float16 between the bytes and the labels.
        shape: batch, height and width; None: any.
        opset: version of the operators.

    Returns:
        ``image`` uint8 ``[batch, height, width, bands]`` to ``labels`` int32 ``[batch, height, width]``.
    """
    example = torch.zeros(*(shape or _EXAMPLE), bands, dtype=torch.uint8)
    names = ("batch", "height", "width")
    dynamic = {axis: torch.export.Dim(name) for axis, name in enumerate(names)} if shape is None else None
    if dynamic is not None and network.features is not None:
        # Of a backbone it would find that sides should be larger, and begin anew, which takes as long again.
        dynamic = dict.fromkeys(dynamic, torch.export.Dim.DYNAMIC)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            Deployed(network, half=half).eval(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=opset,
            dynamic_shapes=None if dynamic is None else (dynamic,),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        graph = program.model_proto
        backbone = None if network.features is None else network.features.backbone
        if isinstance(backbone, OnnxMaps):
            graph = inlined(graph, backbone, half=half)
        model: onnx.ModelProto = onnxslim.slim(graph)
    # The exporter knows the size of what was enlarged and cut as a formula only.
    for value in (model.graph.input[0], model.graph.output[0]):
        for axis, size in enumerate(value.type.tensor_type.shape.dim[:3]):
            if shape is None:
                size.dim_param = names[axis]
            else:
                size.dim_value = shape[axis]
    check(model)
    return model


def check(model: onnx.ModelProto) -> None:
    """Whether a graph that was made is one by ONNX's own rules.

    Raises:
        ValueError: it is none; in one line.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = in_one_line(error)[:300]
        text = f"the graph that was made breaks the rules of ONNX ({reason}): no file was written; choose another opset"
        raise ValueError(text) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and log lines of exporters, which no user can do anything about."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
