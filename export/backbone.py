"""The ONNX graph of a pretrained network as part of an exported one.

``torch.export`` sees a network in an ONNX file as one operator that gives its maps. Afterwards the nodes of the file
take the place of that operator.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper, version_converter
from onnx.utils import Extractor
from torch import Tensor, nn

from dynamicseg._files import one_line
from dynamicseg._words import counted, in_one_line
from dynamicseg.export.formats import INPUT
from dynamicseg.features.onnx_maps import OnnxMaps
from dynamicseg.inference.onnx_sizes import OPERATORS

_DOMAIN, _OPERATOR = "dynamicseg", "Backbone"
_PREFIX = "backbone/"


class Placeholder(nn.Module):
    """Stands for the backbone while the rest of a model becomes a graph; see ``planes.MapSource``."""

    def __init__(self, source: OnnxMaps) -> None:
        super().__init__()
        self.contract, self.facts, self.largest = source.contract, source.facts, source.largest
        self.strides, self.channels = source.strides, source.channels
        self.beside, self.multiple = source.beside, source.multiple

    def forward(self, image: Tensor) -> list[Tensor]:
        """What the maps are to those who go on with them: their shapes and their type."""
        batch, _, height, width = image.shape
        shapes = [
            [batch, channels, *(side // self.multiple * (self.multiple // stride) for side in (height, width))]
            for channels, stride in zip(self.channels, self.strides, strict=True)
        ]
        found = torch.onnx.ops.symbolic_multi_out(
            f"{_DOMAIN}::{_OPERATOR}", (image,), dtypes=[image.dtype] * len(shapes), shapes=shapes, version=1
        )
        return list(found)


def inlined(model: onnx.ModelProto, source: OnnxMaps, *, half: bool) -> onnx.ModelProto:
    """The graph with the nodes of the backbone in place of the operator of ``Placeholder``.

    Args:
        model: as exported.
        source: of the maps.
        half: in float16, as ``image`` and maps of the placeholder are.

    Raises:
        ValueError: the backbone has operators that exported graphs do not have, or ONNX cannot convert it to the
            version of the operators that ``model`` has; in one line.
    """
    (at,) = (number for number, node in enumerate(model.graph.node) if node.domain == _DOMAIN)
    place = model.graph.node[at]
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    backbone = _converted(_maps_only(source), source, opset)
    if half:
        backbone = _in_float16(backbone)
    outputs = list(source.facts["outputs"])
    seen, cut = _cut(place.input[0], source)
    renamed = {backbone.graph.input[0].name: seen}
    # An output that was named twice, or that is the image, is copied.
    copies = []
    for name, wanted in zip(outputs, place.output, strict=True):
        if name in renamed:
            copies.append(onnx.helper.make_node("Identity", [renamed[name]], [wanted]))
        else:
            renamed[name] = wanted
    for number, node in enumerate(backbone.graph.node):
        node.name = f"{_PREFIX}{number}"
        node.input[:] = [_renamed(name, renamed) for name in node.input]
        node.output[:] = [_renamed(name, renamed) for name in node.output]
    for tensor in backbone.graph.initializer:
        tensor.name = _renamed(tensor.name, renamed)
    nodes = [*model.graph.node[:at], *cut.node, *backbone.graph.node, *copies, *model.graph.node[at + 1 :]]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend([*cut.initializer, *backbone.graph.initializer])
    del result.graph.value_info[:]
    imports = [entry for entry in model.opset_import if entry.domain != _DOMAIN]
    del result.opset_import[:]
    result.opset_import.extend(imports)
    return result


def _cut(padded: str, source: OnnxMaps) -> tuple[str, onnx.GraphProto]:
    """The name of what the backbone sees of an image with grey beside it, and the nodes that it takes.

    ``torch.export`` would compute the size one number at a time, in twice as many operators.
    """
    graph = onnx.GraphProto()
    if source.multiple == 1:
        return padded, graph
    names = [f"{_PREFIX}cut/{name}" for name in ("size", "more", "count", "end", "seen")]
    numbers = {"beside": source.beside, "multiple": source.multiple, "first": 0}
    constants = {name: np.full(2, value, np.int64) for name, value in numbers.items()} | {"axes": np.array([2, 3])}
    graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.int64), f"{_PREFIX}cut/{name}") for name, value in constants.items()
    )
    beside, multiple, first, axes = (f"{_PREFIX}cut/{name}" for name in constants)
    size, more, count, end, seen = names
    graph.node.extend(
        [
            onnx.helper.make_node("Shape", [INPUT], [size], start=1, end=3),
            onnx.helper.make_node("Add", [size, beside], [more]),
            onnx.helper.make_node("Div", [more, multiple], [count]),
            onnx.helper.make_node("Mul", [count, multiple], [end]),
            onnx.helper.make_node("Slice", [padded, first, end, axes], [seen]),
        ]
    )
    return seen, graph


def _renamed(name: str, renamed: dict[str, str]) -> str:
    """Without a clash; an input that is left out has no name."""
    return renamed.get(name, f"{_PREFIX}{name}" if name else "")


def _maps_only(source: OnnxMaps) -> onnx.ModelProto:
    """The backbone from its image to its maps: no classes."""
    model = onnx.ModelProto.FromString(source.network.content)
    held = {tensor.name for tensor in model.graph.initializer}
    (image,) = (one.name for one in model.graph.input if one.name not in held)
    found = Extractor(model).extract_model([image], list(dict.fromkeys(source.facts["outputs"])))
    for number in reversed(range(len(found.graph.input))):  # before version 4, weights were listed as inputs, too
        if found.graph.input[number].name in held:
            del found.graph.input[number]
    used = {name for node in found.graph.node for name in node.input}
    for number in reversed(range(len(found.graph.initializer))):
        if found.graph.initializer[number].name not in used:
            del found.graph.initializer[number]
    operators = {node.op_type for node in found.graph.node} - {"Constant"}
    unknown = sorted(operators - OPERATORS)
    if unknown:
        text = (
            f"has {counted(len(unknown), 'operator')} that exported graphs do not have ({', '.join(unknown)[:200]}): "
            "only convolutional networks can be part of one; the model predicts as it is, with this file beside it"
        )
        raise ValueError(one_line(source.network.path, text))
    return found


def _converted(model: onnx.ModelProto, source: OnnxMaps, opset: int) -> onnx.ModelProto:
    found = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if found == opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:  # of its native code, as RuntimeError and others
        text = (
            f"has operators of version {found}, which ONNX cannot convert to {opset} ({in_one_line(error)[:200]}): "
            "choose another opset, or export the network with that one"
        )
        raise ValueError(one_line(source.network.path, text)) from None


def _in_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    found: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=False)
    return found
