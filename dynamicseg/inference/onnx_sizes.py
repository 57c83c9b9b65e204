"""How large the tensors of an exported graph can become, found from its operators before anything is computed.

A file of a few hundred bytes could ask for any amount of memory: constants repeated to any size, an image multiplied
with itself, padding. So only the operators that export writes are known here, and of each only what it is used for; a
size may come from the file or from the size of the image, but not be computed; and no tensor may have more numbers for
a pixel than the model has channels. A description that names a pretrained network allows what that one adds, see
``contract.BackboneLimits``, and the operators of convolutional networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from dynamicseg._files import Refusal
from dynamicseg.inference.contract import BackboneLimits
from dynamicseg.inference.onnx_parts import Constant, Node, unknown

_MAX_RANK = 5
_MAX_KERNEL = 8  # of a first layer with a stride of 4; libraries take memory for each pixel of a kernel
_MAX_REPEATED = 4  # what a graph repeats, it repeats for its two coordinates; the rest is room
_MAX_RESIZED = 32  # between maps of a pretrained network
_MAX_POOLED = 32  # pixels a side
_MAX_POOLED_NUMBERS = 1 << 16  # of the whole image
_MAX_PADDED = 64  # pixels that all its padding adds, where that is no part of a convolution
_NUMBER_TYPES = (1, 6, 7, 10)  # float32, int32, int64, float16 in TensorProto.DataType


@dataclass(frozen=True)
class Side:
    """The most pixels or channels along one axis: ``factor``, times a side of the image if ``of`` names one."""

    factor: Fraction
    of: str = ""


Shape = tuple[Side, ...]


def check_sizes(
    nodes: Sequence[Node],
    constants: Mapping[str, Constant],
    image: Sequence[int | None],
    *,
    channels: int,
    stride: int,
    backbone: BackboneLimits | None = None,
) -> None:
    """Refuses a graph whose tensors could be larger than those of a model with so many channels.

    Args:
        nodes: in the order in which they are computed.
        constants: by name.
        image: batch, height, width and bands; None: any.
        channels: of the widest layer.
        stride: of the first convolution, by which responses are enlarged again.
        backbone: a pretrained network in it, which sees grey beside the image.

    Raises:
        Refusal: it is none that export writes; in one line, with the operator.
    """
    names = ("batch", "height", "width", "bands")
    sides = tuple(Side(Fraction(size or 1), "" if size else name) for size, name in zip(image, names, strict=True))
    # What a backbone sees beside the image, at the right and below, so that its coarsest map covers the image.
    beside = 0 if backbone is None else max(backbone.multiple, *backbone.strides) - 1
    coarsest = max(stride, beside + 1)
    rounded_up = math.prod(-(-(size + beside) // coarsest) * coarsest for size in image[1:3] if size) * (image[0] or 1)
    _Graph(constants, sides, channels * rounded_up, stride, backbone, beside).check(nodes)


@dataclass(frozen=True)
class Cost:
    """What a network takes for each pixel of an image.

    Attributes:
        largest: numbers in its largest tensor.
        multiplications: of its convolutions.
    """

    largest: Fraction
    multiplications: Fraction


def cost_of(nodes: Sequence[Node], constants: Mapping[str, Constant], image: str) -> Cost | None:
    """What a pretrained network takes; None: it has operators of which nobody can tell.

    Args:
        nodes: in the order in which they are computed.
        constants: by name.
        image: the name of its input, ``[1, 3, height, width]``.
    """
    sides = (*_sides([1, 3]), Side(Fraction(1), "height"), Side(Fraction(1), "width"))
    any_at_all = BackboneLimits(0, 0, 0, (1,), foreign=True)
    graph = _Graph(constants, (), math.inf, 1, any_at_all, 0)
    graph.shapes[image] = sides
    try:
        graph.check([node for node in nodes if node.operator != "Constant"])
    except Refusal:
        return None
    return Cost(max(graph.largest, Fraction(3)), graph.multiplications)


class _Graph:
    def __init__(
        self,
        constants: Mapping[str, Constant],
        image: Shape,
        most: float,
        stride: int,
        backbone: BackboneLimits | None,
        beside: int,
    ) -> None:
        self._constants = constants
        self._image = image
        self._most = most
        self._scales = {stride}
        self._rules = dict(_RULES)
        self._foreign = backbone is not None and backbone.foreign
        if backbone is not None:
            self._scales |= set(backbone.strides)
            self._rules |= _BACKBONE_RULES
        if self._foreign:
            self._scales |= set(range(1, _MAX_RESIZED + 1))
            self._rules |= _FOREIGN_RULES
        self._padding_left = _MAX_PADDED
        self.largest = self.multiplications = Fraction(0)
        self._beside = beside  # the first convolution with more padding than its kernel takes away uses this up
        self.shapes: dict[str, Shape] = {name: _sides(found.shape) for name, found in constants.items()}
        self.shapes["image"] = image
        # Of tensors that hold sizes: what they hold.
        self._sizes: dict[str, Shape] = {}

    def check(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if len(node.outputs) != 1 or node.outputs[0] in self.shapes:
                raise unknown(node)
            if node.operator not in self._rules:
                raise unknown(node)
            shape = self._rules[node.operator](self, node)
            of_the_file = node.operator == "DequantizeLinear" and node.inputs[0] in self._constants
            if not of_the_file and not self._is_small(shape):
                raise Refusal(
                    f"uses {node.operator} in a way that could take any amount of memory, which no exported model "
                    "does: export it again"
                )
            self.shapes[node.outputs[0]] = shape

    def _is_small(self, shape: Shape) -> bool:
        sides = [side.of for side in shape if side.of]
        factor = math.prod((side.factor for side in shape), start=Fraction(1))
        most = self._most
        if self._foreign and not set(sides) - {"batch"}:  # what was pooled, not as large as an image
            most = max(most, _MAX_POOLED_NUMBERS)
        else:
            self.largest = max(self.largest, factor)
        return len(shape) <= _MAX_RANK and len(sides) == len(set(sides)) and factor <= most

    def _shape(self, node: Node, index: int) -> Shape:
        if index >= len(node.inputs) or node.inputs[index] not in self.shapes:
            raise unknown(node)
        return self.shapes[node.inputs[index]]

    def _values(self, node: Node, index: int) -> tuple[float, ...]:
        """Numbers that the file holds."""
        found = self._constants.get(node.inputs[index]) if index < len(node.inputs) else None
        if found is None or found.values is None:
            raise unknown(node)
        return found.values

    def _sizes_in(self, node: Node, index: int) -> Shape | None:
        """Sizes that the file holds or that are those of the image; None: it is another tensor."""
        name = node.inputs[index] if index < len(node.inputs) else ""
        if name in self._sizes:
            return self._sizes[name]
        constant = self._constants.get(name)
        if constant is None or constant.values is None or len(constant.shape) > 1:
            return None
        if not all(1 <= value <= _MAX_REPEATED for value in constant.values):
            return None
        return tuple(Side(Fraction(value)) for value in constant.values)

    # ---- one rule for each operator that export writes: the shape of what comes out ----------------------------------

    def shape(self, node: Node) -> Shape:
        start, end = node.number("start", 0), node.number("end", 4)
        if list(node.inputs) != ["image"] or not 0 <= start < end <= len(self._image):
            raise unknown(node)
        self._sizes[node.outputs[0]] = self._image[start:end]
        return _sides([end - start])

    def squeeze(self, node: Node) -> Shape:
        sizes = self._sizes_in(node, 0)
        if sizes is None or len(sizes) != 1:
            raise unknown(node)
        self._sizes[node.outputs[0]] = sizes
        return ()

    def unsqueeze(self, node: Node) -> Shape:
        shape, axes = self._shape(node, 0), self._values(node, 1)
        if len(axes) != 1 or not 0 <= axes[0] <= len(shape):
            raise unknown(node)
        at = int(axes[0])
        return (*shape[:at], *_sides([1]), *shape[at:])

    def concat(self, node: Node) -> Shape:
        shapes = [self._shape(node, index) for index in range(len(node.inputs))]
        sizes = [self._sizes_in(node, index) for index in range(len(node.inputs))]
        if all(found is not None for found in sizes):
            self._sizes[node.outputs[0]] = tuple(side for found in sizes if found is not None for side in found)
        axis = node.number("axis", -1)
        if not shapes or not 0 <= axis < len(shapes[0]) or any(shape[axis].of for shape in shapes):
            raise unknown(node)
        joined = Side(sum((shape[axis].factor for shape in shapes), Fraction(0)))
        others = _broadcast(node, *([*shape[:axis], *_sides([1]), *shape[axis + 1 :]] for shape in shapes))
        return (*others[:axis], joined, *others[axis + 1 :])

    def expand(self, node: Node) -> Shape:
        sizes = self._sizes_in(node, 1)
        if sizes is None:
            raise unknown(node)
        return _broadcast(node, self._shape(node, 0), sizes)

    def range(self, node: Node) -> Shape:
        limit = self._sizes_in(node, 1)
        if limit is None or len(limit) != 1 or self._values(node, 0) != (0,) or self._values(node, 2) != (1,):
            raise unknown(node)
        return limit

    def elementwise(self, node: Node) -> Shape:
        return _broadcast(node, self._shape(node, 0), self._shape(node, 1))

    def same(self, node: Node) -> Shape:
        return self._shape(node, 0)

    def cast(self, node: Node) -> Shape:
        if node.number("to", 0) not in _NUMBER_TYPES:
            raise unknown(node)
        return self._shape(node, 0)

    def transpose(self, node: Node) -> Shape:
        shape = self._shape(node, 0)
        order = node.numbers("perm", ())
        if sorted(order) != list(range(len(shape))):
            raise unknown(node)
        return tuple(shape[axis] for axis in order)

    def conv(self, node: Node) -> Shape:
        x, weight = self._shape(node, 0), self._shape(node, 1)
        pads, dilations = self._pads(node), node.numbers("dilations", (1, 1))
        strides = node.numbers("strides", (1, 1))
        found = (len(x), len(weight), len(pads), len(dilations), len(strides))
        if found != (4, 4, 4, 2, 2) or min(*pads, 0) < 0 or min(*dilations, *strides) < 1:
            raise unknown(node)
        if any(side.of for side in weight):
            raise unknown(node)
        # As much padding as the kernel takes away again, and no more, but once what a backbone sees beside the image.
        more = [
            max(0, pads[axis] + pads[axis + 2] - dilations[axis] * (int(weight[axis + 2].factor) - 1))
            for axis in range(2)
        ]
        kernels = [side.factor for side in weight[2:]]
        if max(more) > self._beside or max(kernels) > _MAX_KERNEL:
            raise Refusal("has a Conv of absurd shape: export it again")
        if max(more) > 0:
            self._beside = 0
        rows, columns = (_divided(_longer(side, by), n) for side, by, n in zip(x[2:], more, strides, strict=True))
        if rows.of and columns.of:
            self.multiplications += math.prod((side.factor for side in weight), start=rows.factor * columns.factor)
        return (x[0], weight[0], rows, columns)

    def resize(self, node: Node) -> Shape:
        shape, scales = self._shape(node, 0), self._values(node, 2)
        if len(node.inputs) != 3 or "axes" in node.attributes or len(shape) != 4 or len(scales) != 4:
            raise unknown(node)
        if scales[:2] != (1, 1) or scales[2] != scales[3] or scales[2] not in self._scales:
            raise unknown(node)
        return (*shape[:2], *(Side(side.factor * int(scales[2]), side.of) for side in shape[2:]))

    def argmax(self, node: Node) -> Shape:
        shape, axis = self._shape(node, 0), node.number("axis", 0)
        if not 0 <= axis < len(shape) or node.number("keepdims", 1) != 0:
            raise unknown(node)
        return (*shape[:axis], *shape[axis + 1 :])

    # ---- and for each of convolutional networks that are not ours ----------------------------------------------------

    def pool(self, node: Node) -> Shape:
        x, kernel = self._shape(node, 0), node.numbers("kernel_shape", ())
        pads, strides = self._pads(node), node.numbers("strides", (1, 1))
        if (len(x), len(kernel), len(pads), len(strides)) != (4, 2, 4, 2) or min(*pads, 0) < 0:
            raise unknown(node)
        if min(*kernel, *strides) < 1 or max(kernel) > _MAX_POOLED or node.numbers("dilations", (1, 1)) != [1, 1]:
            raise unknown(node)
        if any(pads[axis] + pads[axis + 2] >= kernel[axis] for axis in range(2)):
            raise unknown(node)
        return (*x[:2], *(_divided(side, stride) for side, stride in zip(x[2:], strides, strict=True)))

    def _pads(self, node: Node) -> list[int]:
        """Of a convolution or a pool, where they are numbers; none where the size of the image decides."""
        automatic = node.attributes.get("auto_pad", "NOTSET")
        if automatic in ("SAME_UPPER", "SAME_LOWER", "VALID") and self._foreign:
            return [0] * 4
        if automatic != "NOTSET":
            raise unknown(node)
        return node.numbers("pads", (0,) * 4)

    def global_pool(self, node: Node) -> Shape:
        return (*self._shape(node, 0)[:2], *_sides([1, 1]))

    def mean(self, node: Node) -> Shape:
        x = self._shape(node, 0)
        axes = self._values(node, 1) if len(node.inputs) > 1 else node.numbers("axes", ())
        reduced = {int(axis) % max(1, len(x)) for axis in axes}
        if not reduced or node.number("keepdims", 1) != 1:
            raise unknown(node)
        return tuple(_sides([1])[0] if axis in reduced else side for axis, side in enumerate(x))

    def matmul(self, node: Node) -> Shape:
        x, weight = self._shape(node, 0), self._shape(node, 1)
        if len(weight) != 2 or node.inputs[1] not in self._constants or not x:
            raise unknown(node)
        return (*x[:-1], weight[1])

    def pad(self, node: Node) -> Shape:
        x, pads = self._shape(node, 0), self._values(node, 1)
        if len(x) != 4 or len(pads) != 8 or min(pads) < 0 or len(node.inputs) > 3:
            raise unknown(node)
        rows, columns = (int(pads[axis] + pads[axis + 4]) for axis in (2, 3))
        if any(pads[axis] for axis in (0, 1, 4, 5)) or node.attributes.get("mode", "constant") != "constant":
            raise unknown(node)
        more = max(rows, columns)
        if more == self._beside:  # what a backbone sees beside the image
            self._beside = 0
        elif more <= self._padding_left:
            self._padding_left -= more
        else:
            raise unknown(node)
        return (*x[:2], _longer(x[2], rows), _longer(x[3], columns))


_RULES: Mapping[str, Callable[[_Graph, Node], Shape]] = {
    "Add": _Graph.elementwise,
    "ArgMax": _Graph.argmax,
    "Cast": _Graph.cast,
    "Concat": _Graph.concat,
    "Conv": _Graph.conv,
    "DequantizeLinear": _Graph.same,
    "Div": _Graph.elementwise,
    "Expand": _Graph.expand,
    "Mul": _Graph.elementwise,
    "QuantizeLinear": _Graph.same,
    "Range": _Graph.range,
    "Relu": _Graph.same,
    "Resize": _Graph.resize,
    "Shape": _Graph.shape,
    "Slice": _Graph.same,
    "Squeeze": _Graph.squeeze,
    "Sub": _Graph.elementwise,
    "Transpose": _Graph.transpose,
    "Unsqueeze": _Graph.unsqueeze,
}
_BACKBONE_RULES: Mapping[str, Callable[[_Graph, Node], Shape]] = {"Clip": _Graph.same}
_FOREIGN_RULES: Mapping[str, Callable[[_Graph, Node], Shape]] = {
    **dict.fromkeys(("AveragePool", "MaxPool"), _Graph.pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _Graph.global_pool),
    **dict.fromkeys(("PRelu", "Pow"), _Graph.elementwise),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "LayerNormalization"), _Graph.same),
    **dict.fromkeys(("Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Sigmoid"), _Graph.same),
    **dict.fromkeys(("Erf", "Exp", "Identity", "Neg", "Reciprocal", "Softplus", "Sqrt", "Tanh"), _Graph.same),
    "MatMul": _Graph.matmul,
    "Pad": _Graph.pad,
    "ReduceMean": _Graph.mean,
}
OPERATORS = frozenset(_RULES) | frozenset(_BACKBONE_RULES) | frozenset(_FOREIGN_RULES)
"""All that export writes, of any precision, with any option of the network and with any backbone that it can have."""


def _sides(sizes: Sequence[int]) -> Shape:
    return tuple(Side(Fraction(size)) for size in sizes)


def _longer(side: Side, by: int) -> Side:
    """With so many pixels more, of which no account is kept beside a side of the image, which may have any size."""
    return side if side.of else Side(side.factor + by)


def _divided(side: Side, stride: int) -> Side:
    """Along the output of a convolution with a stride: rounded up."""
    return Side(side.factor / stride, side.of) if side.of else Side(Fraction(math.ceil(side.factor / stride)))


def _broadcast(node: Node, *shapes: Sequence[Side]) -> Shape:
    rank = max(len(shape) for shape in shapes)
    padded = [(*_sides([1] * (rank - len(shape))), *shape) for shape in shapes]
    result = []
    for sides in zip(*padded, strict=True):
        several = [side for side in sides if side != Side(Fraction(1))] or [sides[0]]
        if len({side.of for side in several}) > 1:
            raise unknown(node)
        result.append(max(several, key=lambda side: side.factor))
    return tuple(result)
