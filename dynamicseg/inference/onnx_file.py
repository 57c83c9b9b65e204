"""A look into an ONNX file before ONNX Runtime gets it: foreign, damaged and dangerous files end here.

What is refused on purpose, though ONNX knows it: weights in other files, which could be any file of the system;
operators of other domains, which run other people's code or load other files; loops, branches and functions, of which
no exported model has any, and without which every run comes to an end; tensors that hold less than they say; graphs
that make more of an image than a model does, see ``onnx_sizes``.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynamicseg._files import Refusal, opened
from dynamicseg._words import counted
from dynamicseg.inference.contract import METADATA_KEY, ModelContract, read_contract
from dynamicseg.inference.onnx_parts import Constant, Node
from dynamicseg.inference.onnx_sizes import OPERATORS, Cost, check_sizes, cost_of
from dynamicseg.inference.protobuf import BYTES, fields, nested, signed, text, varints

MAX_BYTES = 1 << 30
"""Far more than the largest network that can be trained; protocol buffers end at twice that."""

_MAX_PARTS = 100_000  # nodes, tensors and attributes, counted together
_MAX_AXES = 8
_NODES_PER_LAYER = 16  # twice those of int8, which has the most
_MORE_CHANNELS = 4  # that a layer gets where batch norm is folded into it
_COORDINATES = 2
_MAX_PIXELS = 1 << 30  # of the images that it takes at once, where it takes one size only
_MAX_VALUES = 8  # that are looked at, of tensors that may be sizes

_OPERATOR_DOMAINS = frozenset(["", "ai.onnx"])

# Bytes of an element by its number in TensorProto.DataType.
_ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_TYPE_NAMES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 10: "float16", 11: "float64"}
_VALUE_TYPES = {1: "<f4", 7: "<i8"}  # of sizes and scales
_UINT8, _INT32 = 2, 6


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A file that has passed.

    Attributes:
        content: the whole file; what runs is this, not what is at the path by then.
        contract: what the model says of itself.
        shape: batch, height, width and bands of its input; None: any.
        operators: how often each operator occurs.
    """

    content: bytes
    contract: ModelContract
    shape: tuple[int | None, int | None, int | None, int | None]
    operators: Counter[str]


def read_onnx(path: Path) -> OnnxFile:
    """Reads an exported model.

    Raises:
        ValueError: it is none, is damaged, or holds what no exported model holds; one line that starts with the path.
        OSError: it cannot be read.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise Refusal(f"has more than {MAX_BYTES} bytes: no exported model is so large")
        return _look_into(file.read())


def cost_of_backbone(content: bytes, outputs: Sequence[str]) -> Cost | None:
    """What a foreign network takes for each pixel of an image, on the way to some of its outputs.

    Any standard operator may be in it, and everything else that is refused of exported models is refused.

    Returns:
        None: it has operators of which that is not known, and which no exported graph can have.

    Raises:
        Refusal: it is no ONNX file, is damaged, or holds what could open other files or run other people's code.
    """
    model = _Model(memoryview(content), foreign=True)
    wanted, needed = set(outputs), list[Node]()
    for node in reversed(model.nodes):
        if wanted.intersection(node.outputs):
            needed.append(node)
            wanted.update(node.inputs)
    return cost_of(needed[::-1], model.constants, next(iter(set(model.inputs) - set(model.constants)), ""))


def _look_into(content: bytes) -> OnnxFile:
    model = _Model(memoryview(content))
    if METADATA_KEY not in model.metadata:
        raise Refusal(
            "is a foreign ONNX file: it lacks the description of a trained model; write it with dynamicseg export"
        )
    contract = read_contract(model.metadata[METADATA_KEY])
    batch, height, width, bands = _shape(model.inputs, "image", _UINT8, 4)
    _shape(model.outputs, "labels", _INT32, 3)
    if bands is not None and bands != contract.bands:
        raise Refusal(
            f"takes images of {counted(bands, 'band')}, but its description says {contract.bands}: export it again"
        )
    if (height is None) != (width is None):
        raise Refusal("fixes only one of height and width: export it again, with --static or --dynamic")
    if (batch or 1) * (height or 1) * (width or 1) > _MAX_PIXELS:
        raise Refusal(
            f"takes {counted(batch or 1, 'image')} of {width}x{height} pixels at once: export it again for less"
        )
    _check_graph(model, contract, (batch, height, width, contract.bands))
    return OnnxFile(content, contract, (batch, height, width, bands), model.operators)


def _check_graph(model: _Model, contract: ModelContract, image: Sequence[int | None]) -> None:
    """As many layers as the description says, none of them wider."""
    convolutions, nodes = contract.depth + 1, _NODES_PER_LAYER * (contract.depth + 4)
    planes = contract.bands + contract.feature_planes + _COORDINATES
    channels = max(contract.width + _MORE_CHANNELS, contract.label_count, planes)
    backbone = contract.backbone
    if backbone is not None:
        convolutions, nodes = convolutions + backbone.convolutions, nodes + backbone.nodes
        channels = max(channels, backbone.channels)
    if model.operators["Conv"] > convolutions or len(model.nodes) > nodes:
        raise Refusal("has more layers than its description says: export it again")
    check_sizes(
        model.nodes,
        model.constants,
        image,
        channels=channels,
        stride=contract.stride,
        backbone=backbone,
    )


def _shape(values: dict[str, tuple[int, list[int | None]]], name: str, kind: int, axes: int) -> list[int | None]:
    what = "input" if name == "image" else "output"
    if set(values) != {name}:
        found = ", ".join(sorted(values)[:4]) or "none"
        raise Refusal(f"wants one {what} named {name}, has {found}: it was not written by dynamicseg export")
    found_kind, shape = values[name]
    if found_kind != kind or len(shape) != axes:
        found = f"{_TYPE_NAMES.get(found_kind, found_kind)} of {len(shape)} axes"
        raise Refusal(f"has an {what} {name} of {found}, not {_TYPE_NAMES[kind]} of {axes}: export it again")
    if any(size is not None and not 1 <= size <= 1 << 20 for size in shape):
        raise Refusal(f"has an {what} {name} of shape {shape}: export it again")
    return shape


class _Model:
    """What is looked at in a ModelProto; a ``foreign`` one may have any standard operator, and constants as nodes."""

    def __init__(self, content: memoryview, *, foreign: bool = False) -> None:
        self._foreign = foreign
        self.metadata: dict[str, str] = {}
        self.inputs: dict[str, tuple[int, list[int | None]]] = {}
        self.outputs: dict[str, tuple[int, list[int | None]]] = {}
        self.operators: Counter[str] = Counter()
        self.nodes: list[Node] = []
        self.constants: dict[str, Constant] = {}
        self._parts = 0
        graphs = [nested(value) for number, _, value in self._fields(content) if number == 7]
        if len(graphs) != 1:
            which = "has a network in it" if foreign else "dynamicseg export has written"
            raise Refusal(f"is no ONNX file: it holds {len(graphs)} graphs; pass one that {which}")
        self._graph(graphs[0])
        for number, _, value in self._fields(content):
            if number == 14:
                self._metadata(nested(value))
            elif number in (20, 25):
                raise Refusal("holds functions or training, which no exported model has: export it again")

    def _fields(self, message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
        for field in fields(message):
            self._parts += 1
            if self._parts > 16 * _MAX_PARTS:
                raise Refusal("has far more parts than any exported model: export it again")
            yield field

    def _metadata(self, entry: memoryview) -> None:
        found = {number: text(value) for number, _, value in self._fields(entry) if number in (1, 2)}
        self.metadata[found.get(1, "")] = found.get(2, "")

    def _graph(self, graph: memoryview) -> None:
        for number, _, value in self._fields(graph):
            if number == 1:
                self._node(nested(value))
            elif number == 5:
                name, constant = self._tensor(nested(value))
                if name in self.constants:
                    raise Refusal(f"has two tensors of the name {name[:60]!r}: it is damaged")
                self.constants[name] = constant
            elif number == 15:
                raise Refusal("holds sparse weights, which no exported model has: export it again")
            elif number in (11, 12):
                name, kind, shape = self._value(nested(value))
                (self.inputs if number == 11 else self.outputs)[name] = (kind, shape)

    def _node(self, node: memoryview) -> None:
        operator = domain = ""
        inputs, outputs, attributes = [], [], []
        for number, _, value in self._fields(node):
            if number == 1:
                inputs.append(text(value))
            elif number == 2:
                outputs.append(text(value))
            elif number == 4:
                operator = text(value)
            elif number == 7:
                domain = text(value)
            elif number == 5:
                attributes.append(nested(value))
        if domain not in _OPERATOR_DOMAINS and self._foreign:
            raise Refusal(f"uses {operator[:60]} of {domain[:60]}, which is no operator of ONNX: export it without it")
        if domain not in _OPERATOR_DOMAINS or (operator not in OPERATORS and not self._foreign):
            shown = f"{domain}.{operator}" if domain else operator
            raise Refusal(f"uses the operator {shown[:60]!r}, which no exported model has: export it again")
        self.operators[operator] += 1
        found: dict[str, list[int] | str] = {}
        for attribute in attributes:
            name, content = self._attribute(operator, attribute, outputs)
            if name in found:  # the library would take one of the two
                raise Refusal(f"has the attribute {name[:60]!r} of {operator} twice: it is damaged")
            found[name] = content
        self.nodes.append(Node(operator, inputs, outputs, found))

    def _attribute(self, operator: str, attribute: memoryview, outputs: Sequence[str]) -> tuple[str, list[int] | str]:
        """Its name, and its numbers or its text; fractions are left out, for no size comes from them."""
        name, words, numbers = "", None, list[int]()
        for number, wire_type, value in self._fields(attribute):
            if number == 1:
                name = text(value)
            elif number == 3:
                numbers.append(signed(_whole(value)))
            elif number == 4:
                words = text(value)
            elif number == 8:
                more = varints(nested(value)) if wire_type == BYTES else [_whole(value)]
                numbers += [signed(one) for one in more]
            elif number == 5 and self._foreign:
                _, constant = self._tensor(nested(value))
                self.constants.update(dict.fromkeys(outputs, constant))
            elif number in (5, 10):
                raise Refusal(f"has a tensor inside {operator}, which no exported model has: export it again")
            elif number in (6, 11, 21, 22, 23):
                raise Refusal(f"has a graph inside {operator}, which no exported model has: export it again")
        return name, numbers if words is None else words

    def _tensor(self, tensor: memoryview) -> tuple[str, Constant]:
        """Its name, and what it holds."""
        name, dims = "", list[int]()
        kind = held = 0
        raw: memoryview | None = None
        for number, wire_type, value in self._fields(tensor):
            if number == 1:
                dims += varints(nested(value)) if wire_type == BYTES else [_whole(value)]
            elif number == 2:
                kind = _whole(value)
            elif number in (13, 14) and not (number == 14 and value == 0):
                advice = "export it again, which writes one file"
                if self._foreign:
                    advice = "save all of it in one file (external_data=False of torch.onnx.export)"
                raise Refusal(f"keeps weights in other files, which are never opened: {advice}")
            elif number == 9:
                raw = nested(value)
            elif number == 8:
                name = text(value)
            elif number in (4, 5, 7, 10, 11):
                held += _count(number, wire_type, value)
            elif number == 6:
                kind = 0  # text
        if len(dims) > _MAX_AXES or kind not in _ELEMENT_BYTES:
            raise Refusal(
                f"holds a tensor of type {kind} and {len(dims)} axes, which no exported model has: export it again"
            )
        elements = math.prod(dims)
        held_bytes = held * _ELEMENT_BYTES[kind] + (0 if raw is None else len(raw))
        if held_bytes != elements * _ELEMENT_BYTES[kind]:
            raise Refusal("is damaged: a tensor in it holds more or less than it says; copy or export it again")
        values = None
        if raw is not None and not held and elements <= _MAX_VALUES and kind in _VALUE_TYPES:
            values = tuple(np.frombuffer(raw, _VALUE_TYPES[kind]).tolist())
        return name, Constant(tuple(dims), values)

    def _value(self, value: memoryview) -> tuple[str, int, list[int | None]]:
        """Name, element type and shape of an input or output; None stands for any size."""
        name, kind, shape = "", 0, list[int | None]()
        for number, _, found in self._fields(value):
            if number == 1:
                name = text(found)
            elif number == 2:
                for type_number, _, tensor_type in self._fields(nested(found)):
                    if type_number == 1:
                        kind, shape = self._tensor_type(nested(tensor_type))
        return name, kind, shape

    def _tensor_type(self, tensor_type: memoryview) -> tuple[int, list[int | None]]:
        kind, shape = 0, list[int | None]()
        for number, _, value in self._fields(tensor_type):
            if number == 1:
                kind = _whole(value)
            elif number == 2:
                shape = [self._dimension(nested(dim)) for n, _, dim in self._fields(nested(value)) if n == 1]
        return kind, shape

    def _dimension(self, dimension: memoryview) -> int | None:
        sizes = [_whole(value) for number, _, value in self._fields(dimension) if number == 1]
        return sizes[-1] if sizes else None


def _whole(value: int | memoryview) -> int:
    if isinstance(value, int):
        return value
    raise Refusal("is no ONNX file, or it is damaged: copy it again")


def _count(number: int, wire_type: int, value: int | memoryview) -> int:
    """How many numbers a field of a tensor holds: float_data, int32_data, int64_data, double_data, uint64_data."""
    if wire_type != BYTES or isinstance(value, int):
        return 1
    if number in (4, 10):
        return len(value) // (4 if number == 4 else 8)
    return int(np.count_nonzero(np.frombuffer(value, np.uint8) < 0x80))  # the last byte of each number
