"""``TrainedModel``: a network with its description, its file, and what it says of an image."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dynamicseg._files import Refusal, one_line, opened
from dynamicseg._safetensors import fitting_tensors, opened_tensors, write_tensors
from dynamicseg._words import counted
from dynamicseg.features.efficientnet import CHANNELS
from dynamicseg.features.options import EFFICIENTNET_LITE0, FeatureOptions
from dynamicseg.features.planes import FeaturePlanes, MapSource, Projection
from dynamicseg.features.sources import map_source
from dynamicseg.inference.contract import METADATA_KEY
from dynamicseg.io import as_image, unit_values
from dynamicseg.model import SegmentationNetwork, network_with
from dynamicseg.model_description import BackboneDescription, ModelDescription, parse_description

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIX = ".safetensors"

_PROJECTION = "projection."
_COUNTERS = "num_batches_tracked"  # of PyTorch's batch norm; nothing here counts batches


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """One network for many images; its labels mean the same in all of them.

    Attributes:
        network: in evaluation mode, on the CPU, float32: from images ``[B, bands, H, W]`` in 0..1 to responses
            ``[B, labels, H, W]``.
        description: bands, labels, colours, options and origin.
    """

    network: SegmentationNetwork
    description: ModelDescription

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model as one safetensors file, whole or not at all; the same model gives the same bytes.

        Raises:
            ValueError: the name has another suffix.
            OSError: the folder cannot be written to.
        """
        path = Path(path)
        check_suffix(path)
        write_tensors(
            path, _numbers(self.network) | _projection(self.network), {METADATA_KEY: self.description.model_dump_json()}
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], backbone: str | os.PathLike[str] | None = None) -> TrainedModel:
        """Reads what ``save`` wrote. Everything is checked before a network is built; nothing is ever executed.

        Args:
            path: the file.
            backbone: the ONNX file of the pretrained network whose features the model sees; None: the file of that
                name beside ``path``.

        Raises:
            ValueError: the file is no such model, damaged, cut short or of another format version; its backbone is not
                there, or is another one; in one line.
            OSError: it cannot be read.
        """
        with opened_tensors(Path(path), "pass a model that dynamicseg train has written") as content:
            description = _description(content.metadata())
            tensors = _tensors(content, description)
        features = None
        if description.backbone is not None:
            projection = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_PROJECTION)}
            features = _features(path, description.backbone, projection, backbone)
        if backbone is not None and (description.backbone is None or description.backbone.onnx is None):
            raise ValueError(one_line(path, "sees no features of an ONNX file: leave the backbone out"))
        network = network_with(description.bands, description.label_count, description.network, tensors, features)
        return cls(network, description)

    def predict_array(self, image: NDArray[Any]) -> NDArray[np.int32]:
        """The label of each pixel, the whole image at once.

        Args:
            image: ``[H, W, bands]``, or ``[H, W]`` for one band: uint8 or uint16, taken as 0..1 of their range, or
                float, taken as it is.

        Returns:
            ``[H, W]``, 0 to ``label_count - 1``: the same number is the same label in every image.

        Raises:
            TypeError, ValueError: the image has another dtype, shape or number of bands, or values that are not finite.
        """
        pixels = as_image(image)
        if pixels.shape[2] != self.description.bands:
            raise ValueError(
                f"the image has {counted(pixels.shape[2], 'band')}, the model was trained on {self.description.bands}: "
                "pass an image like those that it was trained on"
            )
        with torch.inference_mode():
            labels: NDArray[np.int32] = self.network(batch_of(pixels)).argmax(dim=1)[0].to(torch.int32).numpy()
        return labels


def check_suffix(path: Path) -> None:
    """Refuses a name for a model file that does not say what it is."""
    if path.suffix.lower() != SUFFIX:
        raise ValueError(one_line(path, f"models are saved as safetensors; end the name in {SUFFIX}"))


def batch_of(pixels: NDArray[Any]) -> Tensor:
    """``[H, W, bands]`` of uint8, uint16 or float32 to float32 ``[1, bands, H, W]``; integers become 0..1."""
    return torch.from_numpy(unit_values(pixels)).permute(2, 0, 1)[None]


def _numbers(network: SegmentationNetwork) -> dict[str, Tensor]:
    """Parameters and running statistics by name."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(_COUNTERS)}


def _projection(network: SegmentationNetwork) -> dict[str, Tensor]:
    """Of the features, by name; none where there are none."""
    if network.features is None:
        return {}
    return {_PROJECTION + name: tensor for name, tensor in network.features.projection.state_dict().items()}


def _channels(backbone: BackboneDescription) -> tuple[int, ...]:
    """Of its maps."""
    return CHANNELS if backbone.onnx is None else backbone.onnx.channels


def _features(
    path: str | os.PathLike[str],
    backbone: BackboneDescription,
    numbers: dict[str, Tensor],
    file: str | os.PathLike[str] | None,
) -> FeaturePlanes:
    """The backbone that is here, if it is the one that the model was trained with."""
    found = _backbone(Path(path), backbone, file)
    projection = Projection(_channels(backbone))
    projection.load_state_dict({name.removeprefix(_PROJECTION): tensor for name, tensor in numbers.items()})
    return FeaturePlanes(found, projection)


def _backbone(path: Path, backbone: BackboneDescription, file: str | os.PathLike[str] | None) -> MapSource:
    onnx = backbone.onnx
    if onnx is None:
        found = map_source(FeatureOptions(source=EFFICIENTNET_LITE0))
        _check_same(path, backbone, found.facts["sha256"], f"{backbone.source} with other weights", "install those")
        return found
    # The model names no folder: of a file from elsewhere, that could be any.
    place = path.parent / onnx.file if file is None else Path(file)
    advice = f"put {onnx.file} beside the model, or name it with --backbone FILE (backbone=... in Python)"
    if not place.exists():
        looked = f", and {place} is not there" if file is not None else ""
        raise ValueError(one_line(path, f"sees features of a network in another file{looked}: {advice}"))
    # Before anything of it is run.
    with opened(place) as content:
        sha256 = hashlib.sha256(content.read()).hexdigest()
    _check_same(path, backbone, sha256, f"another network than that in {place}", advice)
    options = FeatureOptions(
        source=os.fspath(place),
        outputs=onnx.outputs,
        mean=onnx.mean,
        std=onnx.std,
        multiple=onnx.multiple,
        sha256=sha256,
    )
    found = map_source(options)
    if (found.channels, found.strides) != (onnx.channels, onnx.strides):
        raise ValueError(one_line(path, f"does not fit its own backbone {place}: train it again"))
    return found


def _check_same(path: Path, backbone: BackboneDescription, sha256: object, what: str, advice: str) -> None:
    if sha256 != backbone.sha256:
        text = (
            f"was trained with features of {what} (sha256 {backbone.sha256[:12]}, here {str(sha256)[:12]}): {advice}, "
            "or train it again"
        )
        raise ValueError(one_line(path, text))


def _description(metadata: dict[str, str] | None) -> ModelDescription:
    if not metadata or METADATA_KEY not in metadata:
        raise Refusal("is no model that dynamicseg train has written: its header lacks a description")
    try:
        return parse_description(metadata[METADATA_KEY])
    except ValueError as error:
        raise Refusal(str(error)) from None


def _tensors(content: Any, description: ModelDescription) -> dict[str, Tensor]:
    """All tensors of the file, once their names, shapes, types and values are those that the network wants."""
    with torch.device("meta"):  # shapes without memory: the description may still lie
        network = SegmentationNetwork(description.bands, description.label_count, description.network)
        wanted = _numbers(network)
        if description.backbone is not None:
            projection = Projection(_channels(description.backbone))
            if projection.planes != description.network.feature_planes:
                raise Refusal(
                    f"does not fit its own description: {description.network.feature_planes} planes of features, where "
                    f"its backbone gives {projection.planes}"
                )
            wanted |= {_PROJECTION + name: tensor for name, tensor in projection.state_dict().items()}
    tensors = fitting_tensors(content, wanted, "does not fit its own description")
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()) or (name.endswith("running_var") and bool((tensor < 0).any())):
            raise Refusal(f"holds values in {name} that no network has: NaN, infinity or a variance below 0")
    return tensors
