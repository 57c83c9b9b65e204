"""What is known of a trained model besides its numbers: JSON in the header of its file, and in what it is exported to.

Nothing here needs torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from dynamicseg._words import counted
from dynamicseg.inference.contract import (
    FORMAT_VERSION,
    MAX_BACKBONE_MULTIPLE,
    MAX_BACKBONE_NODES,
    MAX_BACKBONE_STRIDE,
    MAX_BANDS,
    MAX_DEPTH,
    MAX_DILATION,
    MAX_DILATION_GROWTH,
    MAX_FEATURE_PLANES,
    MAX_LABELS,
    MAX_WIDTH,
    ONNX_BACKBONE,
    Stride,
    reach,
)

LayerOrder = Literal["relu_norm", "norm_relu"]

_Frozen = ConfigDict(frozen=True, extra="forbid")
_Byte = Annotated[int, Field(ge=0, le=255)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NetworkOptions(BaseModel):
    """The shape of a network, apart from the bands that go in and the labels that come out."""

    model_config = _Frozen

    width: Annotated[int, Field(ge=1, le=MAX_WIDTH)]
    """Channels of each hidden layer."""
    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)]
    """Number of hidden layers: convolutions of 3x3, unless ``stride`` makes the first one larger."""
    order: LayerOrder = "relu_norm"
    """Of what follows a hidden convolution. ``"relu_norm"``: as published. ``"norm_relu"``: batch norm comes right
    after the convolution, so that it can be folded into it exactly once training is over."""
    stride: Stride = 1
    """Of the first convolution. Responses are enlarged again, bilinearly, to the size of the image."""
    dilation_growth: Annotated[int, Field(ge=1, le=MAX_DILATION_GROWTH)] = 1
    """Each hidden layer looks so many times as far as the one before: its dilation is a power of this."""
    coordinates: bool = False
    """Two more planes go in beside the bands: row and column of each pixel, from -1 to 1 across the image. For cameras
    that keep their view, as on a vehicle: labels then depend on where in the image something is."""

    feature_planes: Annotated[int, Field(ge=0, le=MAX_FEATURE_PLANES)] = 0
    """Planes that go in between the bands and the coordinates: features of a pretrained network."""

    @model_validator(mode="after")
    def _bounded(self) -> NetworkOptions:
        if self.dilation_growth ** (self.depth - 1) > MAX_DILATION:
            raise ValueError(
                f"dilation_growth {self.dilation_growth} at depth {self.depth} means dilations above {MAX_DILATION}: "
                "choose less of either"
            )
        return self

    @property
    def dilations(self) -> tuple[int, ...]:
        """Of each hidden layer, in pixels of its input."""
        return tuple(self.dilation_growth**layer for layer in range(self.depth))

    @property
    def receptive_field(self) -> int | None:
        """No pixel farther away than this, in rows or in columns, has any influence on a label; None: any may have.

        Tiles of an image give the labels of the whole only where they also begin at multiples of ``stride``.
        """
        return None if self.coordinates or self.feature_planes else self.reach

    @property
    def reach(self) -> int:
        """The same for what goes into the first layer, features and coordinates included."""
        return reach(self.depth, self.stride, self.dilation_growth)


class OnnxBackboneDescription(BaseModel):
    """What there is to know of a pretrained network in an ONNX file, see ``features.options.FeatureOptions``."""

    model_config = _Frozen

    file: Annotated[str, Field(pattern=r"^[^/\\]+\.[oO][nN][nN][xX]$", max_length=255)]
    """Its name, without a folder: it is looked for beside the model, or where the user says."""
    outputs: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_FEATURE_PLANES)]
    mean: tuple[_Finite, _Finite, _Finite]
    std: tuple[_Positive, _Positive, _Positive]
    multiple: Annotated[int, Field(ge=1, le=MAX_BACKBONE_MULTIPLE)]
    """Height and width that it sees are multiples of this, which is one of each stride, too."""
    channels: tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH)], ...]
    """Of each map."""
    strides: tuple[Annotated[int, Field(ge=1, le=MAX_BACKBONE_STRIDE)], ...]
    """Of each map."""
    largest: Annotated[int, Field(ge=1, le=MAX_WIDTH)]
    """How many numbers for each pixel of the image its largest tensor has, about."""
    multiplications: Annotated[int, Field(ge=0)]
    """Of its convolutions, for each pixel of the image; 0: nobody can tell."""
    convolutions: Annotated[int, Field(ge=0, le=MAX_BACKBONE_NODES)] = 0
    nodes: Annotated[int, Field(ge=0, le=MAX_BACKBONE_NODES)] = 0
    """What it adds to an exported graph: those of trained models hold nothing of it."""

    @model_validator(mode="after")
    def _one_for_each_output(self) -> OnnxBackboneDescription:
        if not len(self.outputs) == len(self.channels) == len(self.strides):
            raise ValueError("outputs, channels and strides are not as many")
        return self


class BackboneDescription(BaseModel):
    """The pretrained network whose features go in; its weights are not in the file of the model."""

    model_config = _Frozen

    source: Literal["efficientnet-lite0", "onnx"]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the file with its weights: with others, labels would be others."""
    onnx: OnnxBackboneDescription | None = None
    """Of one in an ONNX file."""

    @model_validator(mode="after")
    def _onnx_is_described(self) -> BackboneDescription:
        if (self.source == ONNX_BACKBONE) != (self.onnx is not None):
            raise ValueError("just a backbone in an ONNX file has a description of it")
        return self


class ModelDescription(BaseModel):
    """Everything that one has to know to use a trained model, and where it comes from."""

    model_config = _Frozen

    format_version: Literal[1] = 1
    package_version: str
    created_with: dict[str, str]
    """Versions of the libraries that it was trained with."""
    bands: Annotated[int, Field(ge=1, le=MAX_BANDS)]
    """Of the images that it takes."""
    label_count: Annotated[int, Field(ge=1, le=MAX_LABELS)]
    """Labels are 0 to ``label_count - 1``, the same in every image; an image need not have all of them."""
    palette: tuple[tuple[_Byte, _Byte, _Byte], ...]
    """Red, green and blue of each label."""
    label_areas: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    """The share of the training pixels that each label has, the largest first."""
    network: NetworkOptions
    receptive_field: int | None
    """See ``NetworkOptions.receptive_field``."""
    backbone: BackboneDescription | None = None
    """Where ``network`` has planes of features."""
    input: Literal["uint8 / 255"] = "uint8 / 255"
    """What the network takes: bytes divided by 255; so 16-bit values by 65535, and floats as they are."""
    training: dict[str, JsonValue]
    """Options, seed, and how training went."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelDescription:
        for name, count in (("palette", len(self.palette)), ("label_areas", len(self.label_areas))):
            if count != self.label_count:
                raise ValueError(
                    f"{name} has {counted(count, 'entry', 'entries')} for {counted(self.label_count, 'label')}"
                )
        if self.receptive_field != self.network.receptive_field:
            raise ValueError(
                f"receptive_field is {self.receptive_field}, that of the network {self.network.receptive_field}"
            )
        if (self.backbone is None) != (self.network.feature_planes == 0):
            raise ValueError("a backbone belongs to planes of features, and planes of features to a backbone")
        return self


class _Versioned(BaseModel):
    format_version: int


def parse_description(text: str) -> ModelDescription:
    """The description that ``ModelDescription.model_dump_json`` wrote.

    Raises:
        ValueError: in one line: it is of another format version, or not what this one has.
    """
    try:
        version = _Versioned.model_validate_json(text).format_version
        if version != FORMAT_VERSION:
            advice = "install a newer DynamicSeg" if version > FORMAT_VERSION else "train it again"
            raise ValueError(f"its format is version {version}, this DynamicSeg reads {FORMAT_VERSION}: {advice}")
        return ModelDescription.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(f"its description is damaged: {_in_words(error.errors(include_url=False)[0])}") from None


def _in_words(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
