"""A network in an ONNX file as what planes of features come from: any size of image, maps of fixed strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dynamicseg._files import one_line
from dynamicseg.features.onnx_backbone import OnnxBackbone
from dynamicseg.inference.contract import MAX_BACKBONE_MULTIPLE, MAX_BACKBONE_STRIDE, MAX_WIDTH
from dynamicseg.ops._library import left_alone_by_the_compiler

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Numbers for each pixel in the largest tensor, where nobody can tell: more than those of most networks.
_LARGEST = 64


class OnnxMaps(nn.Module):
    """The maps of a network in an ONNX file, which ONNX Runtime runs; see ``planes.MapSource``.

    Args:
        network: opened.

    Attributes:
        multiplications: of its convolutions, for each pixel; 0: nobody can tell.
        multiple: of an image, with what lies beside it, it sees as much as has sides that are multiples of this.

    Raises:
        ValueError: it takes images of one size only, or its maps are not the image divided by whole numbers.
    """

    def __init__(self, network: OnnxBackbone) -> None:
        super().__init__()
        self.network = network
        self.contract = network.contract
        self.facts = network.facts
        cost = network.cost
        self.largest = _LARGEST if cost is None else max(1, math.ceil(cost.largest))
        self.multiplications = 0 if cost is None else math.ceil(cost.multiplications)
        if self.contract.size != (None, None):
            height, width = ("any" if side is None else side for side in self.contract.size)
            text = (
                f"takes images of {height}x{width} only (height x width), and a model for many images wants any size: "
                "export it with dynamic height and width, or use it with segment"
            )
            raise ValueError(one_line(network.path, text))
        # Different in height and width, so that they cannot be taken for each other.
        size = (2 * self.contract.multiple, 3 * self.contract.multiple)
        while min(size) < MAX_BACKBONE_STRIDE:  # else a coarse map would have one cell for any size
            size = (2 * size[0], 2 * size[1])
        found = self._run(np.zeros((3, *size), np.float32))
        self.strides = tuple(self._stride(number, one.shape, size) for number, one in enumerate(found))
        self.channels = tuple(len(one) for one in found)
        self.multiple = math.lcm(self.contract.multiple, *self.strides)
        if self.multiple > MAX_BACKBONE_MULTIPLE:
            text = f"wants sides that are multiples of {self.multiple}, more than {MAX_BACKBONE_MULTIPLE}"
            raise ValueError(one_line(network.path, text))
        self.beside = self.multiple - 1

    @left_alone_by_the_compiler
    def forward(self, image: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` in the units of the contract to ``[B, C, H / stride, W / stride]`` for each map.

        H and W are rounded down to multiples of ``multiple``.
        """
        height, width = (side // self.multiple * self.multiple for side in image.shape[-2:])
        arrays = image[..., :height, :width].detach().float().cpu().numpy()
        found = [self._run(one) for one in arrays]
        size = arrays.shape[2:]
        for number, one in enumerate(found[0]):
            if one.shape != (self.channels[number], *(side // self.strides[number] for side in size)):
                raise self._unsteady(number, one.shape, size)
        return [torch.from_numpy(np.stack(maps)).to(image.device) for maps in zip(*found, strict=True)]

    def _run(self, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return self.network.run(image[None])

    def _stride(self, number: int, shape: Sequence[int], size: Sequence[int]) -> int:
        stride = size[0] // shape[1]
        exact = all(side == stride * cells for side, cells in zip(size, shape[1:], strict=True))
        if not exact or stride > MAX_BACKBONE_STRIDE or shape[0] > MAX_WIDTH:
            raise self._unsteady(number, shape, size)
        return stride

    def _unsteady(self, number: int, shape: Sequence[int], size: Sequence[int]) -> ValueError:
        text = (
            f"its output {self.facts['outputs'][number]} is {list(shape)} for an image of {size[0]}x{size[1]} (height "
            "x width); a model for many images wants maps [channels, h, w] with height / h = width / w a whole number "
            f"of 1 to {MAX_BACKBONE_STRIDE}, the same for all images: name other outputs, or choose another "
            "feature_multiple"
        )
        return ValueError(one_line(self.network.path, text))
