"""The pretrained networks that give planes of features, opened by their options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynamicseg.features.backbone import open_backbone
from dynamicseg.features.efficientnet import EfficientNetLite0
from dynamicseg.features.onnx_backbone import OnnxBackbone
from dynamicseg.features.onnx_maps import OnnxMaps
from dynamicseg.model_description import BackboneDescription, OnnxBackboneDescription

if TYPE_CHECKING:
    from dynamicseg.features.options import FeatureOptions
    from dynamicseg.features.planes import MapSource


def map_source(options: FeatureOptions) -> MapSource:
    """The network, for images of any size.

    Raises:
        ValueError, OSError: see ``backbone.open_backbone`` and ``onnx_maps.OnnxMaps``.
    """
    if not options.is_onnx:
        # A new one each time: whoever has it may move it to a GPU.
        return EfficientNetLite0.load()
    network = open_backbone(options)
    assert isinstance(network, OnnxBackbone)
    return OnnxMaps(network)


def described_source(source: MapSource) -> BackboneDescription:
    """What a model says of it."""
    sha256 = str(source.facts["sha256"])
    if not isinstance(source, OnnxMaps):
        return BackboneDescription(source=source.facts["source"], sha256=sha256)  # type: ignore[arg-type]
    contract = source.contract
    return BackboneDescription(
        source="onnx",
        sha256=sha256,
        onnx=OnnxBackboneDescription(
            file=str(source.facts["source"]),
            outputs=tuple(source.facts["outputs"]),
            mean=contract.mean,
            std=contract.std,
            multiple=source.multiple,
            channels=source.channels,
            strides=source.strides,
            largest=source.largest,
            multiplications=source.multiplications,
        ),
    )
