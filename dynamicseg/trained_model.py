"""``TrainedModel``: a network with its description, its file, and what it says of an image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dynamicseg._files import Refusal, one_line
from dynamicseg._safetensors import fitting_tensors, opened_tensors, write_tensors
from dynamicseg._words import counted
from dynamicseg.features.efficientnet import CHANNELS, EfficientNetLite0
from dynamicseg.features.planes import FeaturePlanes, Projection
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
    def load(cls, path: str | os.PathLike[str]) -> TrainedModel:
        """Reads what ``save`` wrote. Everything is checked before a network is built; nothing is ever executed.

        Raises:
            ValueError: the file is no such model, damaged, cut short or of another format version; in one line.
            OSError: it cannot be read.
        """
        with opened_tensors(Path(path), "pass a model that dynamicseg train has written") as content:
            description = _description(content.metadata())
            tensors = _tensors(content, description)
        features = None
        if description.backbone is not None:
            projection = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_PROJECTION)}
            features = _features(path, description.backbone, projection)
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


def _features(path: str | os.PathLike[str], backbone: BackboneDescription, numbers: dict[str, Tensor]) -> FeaturePlanes:
    """The backbone that is installed here, if it is the one that the model was trained with."""
    found = EfficientNetLite0.load()
    if found.facts["sha256"] != backbone.sha256:
        text = (
            f"was trained with features of {backbone.source} with other weights (sha256 {backbone.sha256[:12]}, here "
            f"{str(found.facts['sha256'])[:12]}): install those, or train it again"
        )
        raise ValueError(one_line(path, text))
    projection = Projection(CHANNELS)
    projection.load_state_dict({name.removeprefix(_PROJECTION): tensor for name, tensor in numbers.items()})
    return FeaturePlanes(found, projection)


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
            projection = Projection(CHANNELS)
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
