"""From an image to the feature maps of a pretrained network, which is opened once and asked once an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn import functional

from dynamicseg._files import one_line
from dynamicseg.colours import within_0_and_1
from dynamicseg.features.cache import MapCache
from dynamicseg.features.options import FeatureOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Twice the size of the image makes maps finer; more would cost too much time and memory.
_ENLARGED = 2.0
_LONGEST_SIDE = 1024


@dataclass(frozen=True)
class InputContract:
    """What a network wants to see.

    Attributes:
        mean: of red, green and blue in 0..1, taken off.
        std: what they are then divided by.
        multiple: height and width are multiples of this.
        size: height and width, where the network has only one; None: any.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    multiple: int
    size: tuple[int | None, int | None] = (None, None)


class Backbone(Protocol):
    """A pretrained network.

    Attributes:
        contract: what it wants to see.
        facts: what it is, ready for JSON: ``source``, ``sha256`` of its weights, ``outputs``.
    """

    contract: InputContract
    facts: Mapping[str, str | Sequence[str]]

    def run(self, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Its maps ``[C, h, w]``, each over the whole image, for an image ``[1, 3, H, W]`` that fits its contract.

        Raises:
            ValueError: it cannot be run on such an image.
        """


def feature_maps(values: NDArray[np.float32], options: FeatureOptions) -> list[NDArray[np.float32]]:
    """Maps ``[C, h, w]`` of an image ``[H, W, C]`` of one band (grey) or three (RGB), each over the whole of it.

    Raises:
        ValueError: the image has other bands; or see ``open_backbone``.
    """
    if values.shape[2] not in (1, 3):
        raise ValueError(
            f"features are those of photos, grey or red, green and blue; the image has {values.shape[2]} bands: "
            "leave features out"
        )
    backbone = open_backbone(options)
    image = _network_input(within_0_and_1(values), backbone.contract)
    return MapCache.of(options.cache).maps(
        (dict(backbone.facts), "mirrored as well"), image, lambda: _of_both_sides(image, backbone)
    )


def open_backbone(options: FeatureOptions) -> Backbone:
    """The network, opened when it is first asked for.

    Raises:
        ValueError: what carries it is not installed, the file is none that features can come from, or it has other
            weights than ``options`` say.
        OSError: the file cannot be read.
    """
    backbone = opened_backbone(options.model_copy(update={"sha256": None, "cache": None}))
    if options.sha256 not in (None, backbone.facts["sha256"]):
        raise ValueError(one_line(options.source, "has changed since features were first taken from it: start again"))
    return backbone


@lru_cache(maxsize=2)
def opened_backbone(options: FeatureOptions) -> Backbone:
    """The same for options without a hash and a cache, which make no other network."""
    if options.is_onnx:
        from dynamicseg.features.onnx_backbone import OnnxBackbone

        return OnnxBackbone.load(options)
    from dynamicseg.features.efficientnet import EfficientNetLite0

    return EfficientNetLite0.load()


def _of_both_sides(image: NDArray[np.float32], backbone: Backbone) -> list[NDArray[np.float32]]:
    """The mean of the maps of the image and of its mirror image: what a map is wrong about is not the same in both."""
    mirrored = backbone.run(np.ascontiguousarray(image[..., ::-1]))
    return [
        (one + other[..., ::-1]) * np.float32(0.5) for one, other in zip(backbone.run(image), mirrored, strict=True)
    ]


def _network_input(values: NDArray[np.float32], contract: InputContract) -> NDArray[np.float32]:
    """``[1, 3, height, width]`` at the size and in the units that the network wants, from ``[H, W, 1 or 3]``."""
    image = torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)[None]
    size = _input_size(values.shape[0], values.shape[1], contract)
    if tuple(image.shape[2:]) != size:
        # Fine patterns fade where the image becomes smaller, and do not turn into coarse ones.
        image = functional.interpolate(image, size=size, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (contract.mean, contract.std))
    prepared: NDArray[np.float32] = ((image - mean) / std).numpy()
    return prepared


def _input_size(height: int, width: int, contract: InputContract) -> tuple[int, int]:
    scale = min(_ENLARGED, _LONGEST_SIDE / max(height, width))
    fixed = contract.size
    return tuple(  # type: ignore[return-value]
        max(1, round(side * scale / contract.multiple)) * contract.multiple if only is None else only
        for side, only in zip((height, width), fixed, strict=True)
    )
