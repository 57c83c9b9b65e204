"""What a model file says of itself, as far as it takes to predict with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from dynamicseg._files import Refusal
from dynamicseg._words import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

METADATA_KEY = "dynamicseg"
"""Under this key an ONNX file holds the description, as JSON."""
FORMAT_VERSION = 1
"""Of model files. It grows when an older DynamicSeg could not use a newer file."""
MAX_DESCRIPTION_BYTES = 4 << 20

MAX_BANDS = MAX_LABELS = MAX_WIDTH = 4096
MAX_DEPTH = 64
MAX_FEATURE_PLANES = 256
MAX_BACKBONE_STRIDE = 128
MAX_BACKBONE_MULTIPLE = 1024
MAX_BACKBONE_NODES = 1 << 14
MAX_DILATION_GROWTH = 4
MAX_DILATION = 256
Stride = Literal[1, 2, 4]
STRIDES: tuple[Stride, ...] = get_args(Stride)
"""Limits of what a network may be: of those that are trained (``model_description``) and of those that are run."""


@dataclass(frozen=True)
class BackboneLimits:
    """What a pretrained network, whose features go in, may add to an exported graph.

    Attributes:
        convolutions: its own, and those that project its maps.
        nodes: operators of all kinds.
        channels: numbers for each pixel of the image in its largest tensor.
        strides: of its maps, by which they are enlarged.
        multiple: it sees images whose sides are multiples of this.
        foreign: it came from a file of anybody's, with any operators of convolutional networks.
    """

    convolutions: int
    nodes: int
    channels: int
    strides: tuple[int, ...]
    multiple: int = 1
    foreign: bool = False


BACKBONES: Mapping[str, BackboneLimits] = {
    # Of 84 nodes that export writes. Its largest tensor has 96 channels at half the height and width.
    "efficientnet-lite0": BackboneLimits(convolutions=35, nodes=100, channels=24, strides=(8, 16)),
}
"""By name, as descriptions have it."""
ONNX_BACKBONE = "onnx"
"""The name of any that came from an ONNX file, of which the description itself says what it may add."""


@dataclass(frozen=True, eq=False)
class ModelContract:
    """What goes into a model and what comes out.

    Attributes:
        bands: of the images that it takes.
        label_count: labels are 0 to ``label_count`` - 1.
        palette: uint8 ``[label_count, 3]``, the colour of each label.
        radius: no pixel farther away than this has any influence on a label; None: all have.
        stride: that holds of parts of an image that begin at multiples of it.
        width: channels of the widest layer.
        depth: number of hidden layers.
        feature_planes: how many go in beside the bands.
        backbone: what gives them; None: there are none.
        description: the whole JSON that it was read from.
    """

    bands: int
    label_count: int
    palette: NDArray[np.uint8]
    radius: int | None
    stride: int
    width: int
    depth: int
    feature_planes: int
    backbone: BackboneLimits | None
    description: Mapping[str, Any] = field(repr=False)

    @property
    def bytes_per_pixel(self) -> int:
        """About how much memory a pixel takes on its way through the model."""
        # What goes into a layer and what comes out, in float32, and what convolution libraries reorder: 2.2 to 2.5 maps
        # of the widest layer, measured with both runtimes at 32 and 100 channels. Responses of a network with a stride
        # are enlarged to the size of the image.
        maps = 3 * max(self.width, self.label_count) / self.stride**2
        enlarged = 2 * self.label_count if self.stride > 1 else 0
        if self.backbone is not None:  # which is done before the network begins
            maps = max(maps, 3 * self.backbone.channels) + 2 * self.feature_planes
        return int(4 * (maps + enlarged)) + 16 * self.bands


def read_contract(text: str | bytes) -> ModelContract:
    """The contract in the description of a trained model, a JSON object.

    Only what is needed here is looked at: ``model_description`` checks all of it, but needs pydantic, which a small
    device does not have.

    Raises:
        Refusal: it is no JSON object, of another format version, or lacks something.
    """
    if len(text) > MAX_DESCRIPTION_BYTES:
        raise Refusal(f"has a description of {len(text)} bytes, far more than any model has: it is damaged")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise _damaged("it is no JSON") from None
    if not isinstance(found, dict):
        raise _damaged("it is no JSON object")
    return contract_of(found)


def contract_of(description: Mapping[str, Any]) -> ModelContract:
    """As ``read_contract``, from what JSON has become."""
    version = _number(description, "format_version", 0, 1 << 31)
    if version != FORMAT_VERSION:
        advice = "install a newer DynamicSeg" if version > FORMAT_VERSION else "export it again"
        raise Refusal(f"is of format version {version}, this DynamicSeg reads {FORMAT_VERSION}: {advice}")
    network = description.get("network")
    if not isinstance(network, dict):
        raise _damaged("it has no network")
    label_count = _number(description, "label_count", 1, MAX_LABELS)
    stride, depth = _number(network, "stride", 1, max(STRIDES)), _number(network, "depth", 1, MAX_DEPTH)
    if stride not in STRIDES:
        raise _damaged(f"stride is {stride}, not one of {', '.join(map(str, STRIDES))}")
    feature_planes = _number({"feature_planes": 0, **network}, "feature_planes", 0, MAX_FEATURE_PLANES)
    return ModelContract(
        bands=_number(description, "bands", 1, MAX_BANDS),
        label_count=label_count,
        palette=_palette(description.get("palette"), label_count),
        radius=_radius(description, network, depth, stride, feature_planes),
        stride=stride,
        width=_number(network, "width", 1, MAX_WIDTH),
        depth=depth,
        feature_planes=feature_planes,
        backbone=_backbone(description, feature_planes),
        description=description,
    )


def reach(depth: int, stride: int, dilation_growth: int) -> int:
    """How many pixels far a network looks in each direction, see ``model_description.NetworkOptions``."""
    dilations = [dilation_growth**layer for layer in range(depth)]
    return sum(dilations) if stride == 1 else stride * (3 + sum(dilations[1:]))


def _backbone(description: Mapping[str, Any], feature_planes: int) -> BackboneLimits | None:
    found = description.get("backbone")
    if (found is None) != (feature_planes == 0):
        raise _damaged("a backbone belongs to planes of features, and planes of features to a backbone")
    if found is None:
        return None
    source = found.get("source") if isinstance(found, dict) else None
    if source == ONNX_BACKBONE and isinstance(found, dict) and isinstance(found.get("onnx"), dict):
        return _onnx_backbone(found["onnx"])
    if not isinstance(source, str) or source not in BACKBONES:
        raise _damaged(f"backbone is {str(source)[:40]}, not one of {', '.join(BACKBONES)}")
    return BACKBONES[source]


def _onnx_backbone(found: Mapping[str, Any]) -> BackboneLimits:
    strides = found.get("strides")
    if not isinstance(strides, list) or not 1 <= len(strides) <= MAX_FEATURE_PLANES:
        raise _damaged(f"strides of its backbone are {str(strides)[:40]}")
    return BackboneLimits(
        convolutions=_number(found, "convolutions", 0, MAX_BACKBONE_NODES),
        nodes=_number(found, "nodes", 0, MAX_BACKBONE_NODES),
        channels=_number(found, "largest", 1, MAX_WIDTH),
        strides=tuple(_number({"stride": one}, "stride", 1, MAX_BACKBONE_STRIDE) for one in strides),
        multiple=_number(found, "multiple", 1, MAX_BACKBONE_MULTIPLE),
        foreign=True,
    )


def _radius(
    description: Mapping[str, Any], network: Mapping[str, Any], depth: int, stride: int, feature_planes: int
) -> int | None:
    growth = _number(network, "dilation_growth", 1, MAX_DILATION_GROWTH)
    if growth ** (depth - 1) > MAX_DILATION:
        raise _damaged(f"dilation_growth is {growth} at depth {depth}, which means dilations above {MAX_DILATION}")
    if not isinstance(network.get("coordinates"), bool):
        raise _damaged(f"coordinates is {str(network.get('coordinates'))[:40]}, not true or false")
    radius = None if network["coordinates"] or feature_planes else reach(depth, stride, growth)
    found = description.get("receptive_field", -1)
    if type(found) is not type(radius) or found != radius:
        raise _damaged(f"receptive_field is {str(found)[:40]}, that of the network {radius}")
    return radius


def _number(description: Mapping[str, Any], name: str, least: int, most: int) -> int:
    number = description.get(name)
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise _damaged(f"{name} is {str(number)[:40]}, not a whole number of {least} to {most}")
    return number


def _palette(colours: object, label_count: int) -> NDArray[np.uint8]:
    if not isinstance(colours, list) or len(colours) != label_count:
        raise _damaged(f"palette does not hold {counted(label_count, 'colour')}")
    for colour in colours:
        if not isinstance(colour, list) or len(colour) != 3 or not all(_is_byte(part) for part in colour):
            raise _damaged(f"palette holds {str(colour)[:40]}, not three numbers of 0 to 255")
    return np.array(colours, np.uint8)


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _damaged(what: str) -> Refusal:
    return Refusal(f"has a damaged description: {what}; copy or export it again")
