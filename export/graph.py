"""From a model to the graph that is exported, compared with it on real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx

from dynamicseg.export.description import graph_digest, versions
from dynamicseg.export.folding import folded
from dynamicseg.export.formats import Activations, ExportOptions
from dynamicseg.export.images import ImageSet, images_in, photos_at_hand, with_odd_sizes
from dynamicseg.export.onnx import OPSET, onnx_model
from dynamicseg.export.parity import agreement, check_agreement, onnx_labels
from dynamicseg.export.quantization import equalized, quantized
from dynamicseg.export.source import ModelSource
from dynamicseg.model_description import ModelDescription

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class ComparedGraph:
    """A graph whose labels are those of its model.

    Attributes:
        graph: without metadata.
        description: of its model, with what a pretrained network adds to the graph.
        images: on which it was compared.
        exported: what is known of the export, ready for JSON.
    """

    graph: onnx.ModelProto
    description: ModelDescription
    images: ImageSet
    exported: dict[str, Any]


def compared_graph(source: ModelSource, chosen: ExportOptions, *, symmetric: bool, progress: Progress) -> ComparedGraph:
    """Makes the graph that the options ask for, and runs it beside the PyTorch model.

    Args:
        source: the model.
        chosen: precision, sizes, images and how many labels must agree.
        symmetric: int8 as TensorRT takes it.
        progress: called with a line on what is being done.

    Raises:
        ValueError, OSError: images cannot be read, or the labels agree too little.
    """
    model = source.model
    bands = source.description.bands
    size = None if chosen.dynamic else chosen.size
    calibration = None if chosen.calibration is None else images_in(chosen.calibration, bands, size)
    images = _images(chosen, calibration, bands, size)
    network = folded(model.network)
    opset = chosen.opset or OPSET
    shape = None if size is None else (chosen.batch or 1, *size)
    exported: dict[str, Any] = {"precision": chosen.precision, "opset": opset, "dynamic": chosen.dynamic}
    if shape is not None:
        exported["shape"] = [*shape, bands]
    progress("making the graph")
    if calibration is not None:
        progress("measuring ranges for int8")
        network = equalized(network, calibration.images)
    graph = onnx_model(network, bands, half=chosen.precision == "fp16", shape=shape, opset=opset)
    if calibration is not None:
        kind: Activations = "int8" if symmetric or chosen.activations == "int8" else "uint8"
        graph, exported["quantization"] = quantized(
            graph, calibration.images, kind, layers=source.description.network.depth + 1
        )
    progress("comparing labels")
    content = graph.SerializeToString()
    batch = 1 if shape is None else shape[0]
    pieces = images.images if shape is not None else with_odd_sizes(images)
    found = agreement(onnx_labels(content, batch), model.predict_array, pieces)
    check_agreement(found, chosen.least_agreement, f"the graph in {chosen.precision}")
    used = versions()
    exported |= {
        "agreement": found.share,
        "worst_agreement": found.worst,
        "min_agreement": chosen.least_agreement,
        "compared_by": f"onnxruntime {used['onnxruntime']}",
        "images": {"count": len(images.images), "source": images.source},
        "versions": used,
        "model_sha256": source.sha256,
        "graph_sha256": graph_digest(graph),
    }
    return ComparedGraph(graph, _with_backbone(source.description, graph), images, exported)


def _with_backbone(description: ModelDescription, graph: onnx.ModelProto) -> ModelDescription:
    """With the size of a backbone from an ONNX file, which prediction holds the graph to."""
    backbone = description.backbone
    if backbone is None or backbone.onnx is None:
        return description
    operators = [node.op_type for node in graph.graph.node]
    convolutions = operators.count("Conv") - (description.network.depth + 1)
    onnx_file = backbone.onnx.model_copy(update={"convolutions": convolutions, "nodes": len(operators)})
    return description.model_copy(update={"backbone": backbone.model_copy(update={"onnx": onnx_file})})


def _images(chosen: ExportOptions, calibration: ImageSet | None, bands: int, size: tuple[int, int] | None) -> ImageSet:
    if chosen.images is not None:
        return images_in(chosen.images, bands, size)
    return calibration or photos_at_hand(bands, size)
