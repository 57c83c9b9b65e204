"""Features as further planes of an image: maps projected to a few components, at the size of the image.

Where one image is segmented, the components are its own. A model for many images has fixed ones, which are part of it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicseg.io import unit_values
from dynamicseg.training_memory import check_features_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynamicseg.features.backbone import InputContract

COMPONENTS = 4
"""Principal components of each map: about as many numbers as a photo has bands."""
# The standard deviation of a component that has all the variance; that of a photo's bands is about as large.
_SPREAD = 0.25
_KEPT_BYTES = 128 << 20


class MapSource(Protocol):
    """A pretrained network as a module: frozen, for images of any size.

    Attributes:
        contract: mean and standard deviation that it wants.
        facts: see ``backbone.Backbone``.
        strides: of its maps, by which they are enlarged to the size of the image.
        channels: of its maps.
        largest: how many numbers for each pixel its largest tensor has, about.
        beside: pixels of grey that it gets at the right and below, so that its coarsest map covers the image.
    """

    contract: InputContract
    facts: Mapping[str, str | Sequence[str]]
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    largest: int
    beside: int

    def __call__(self, image: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` in the units of the contract to ``[B, C, h, w]`` for each map."""


class Projection(nn.Module):
    """For each map a projection to its principal components.

    Args:
        channels: of each map.

    Attributes:
        planes: how many come out.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        counts = [min(COMPONENTS, one) for one in channels]
        self.planes = sum(counts)
        self.layers = nn.ModuleList(
            nn.Conv2d(one, count, kernel_size=1) for one, count in zip(channels, counts, strict=True)
        ).requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of each map ``[B, C, h, w]`` its components ``[B, c, h, w]``."""
        return [layer(one) for layer, one in zip(self.layers, maps, strict=True)]


@torch.no_grad()
def fitted(images: Iterable[Sequence[Tensor]]) -> Projection:
    """The projection to the principal components of all cells of the maps ``[1, C, h, w]`` of one or more images."""
    sums: list[Tensor] = []
    products: list[Tensor] = []
    cells: list[int] = []
    for maps in images:
        flat = [one[0].flatten(1).double() for one in maps]
        if not sums:
            sums = [one.new_zeros(len(one)) for one in flat]
            products = [one.new_zeros(len(one), len(one)) for one in flat]
            cells = [0] * len(flat)
        for number, one in enumerate(flat):
            sums[number] += one.sum(dim=1)
            products[number] += one @ one.T
            cells[number] += one.shape[1]
    with torch.random.fork_rng(devices=[]):
        projection = Projection([len(one) for one in sums])
    for layer, total, product, count in zip(projection.layers, sums, products, cells, strict=True):
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        mean = total / count
        covariance = product / count - torch.outer(mean, mean)
        _, directions = torch.linalg.eigh(covariance)
        chosen = directions.flip(1)[:, : layer.out_channels].T
        # An eigenvector may come with either sign: its largest number shall be above 0.
        largest = chosen.gather(1, chosen.abs().argmax(dim=1, keepdim=True))
        chosen = chosen * largest.sign() * (_SPREAD / max(float(covariance.trace()), 1e-12) ** 0.5)
        layer.weight.copy_(chosen[:, :, None, None])
        layer.bias.copy_(-chosen @ mean)
    return projection


def with_planes(values: NDArray[np.float32], maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The image ``[H, W, C]`` with the principal components of its own maps, ``[c, h, w]`` over all of it."""
    tensors = [torch.from_numpy(one)[None] for one in maps]
    planes = [
        functional.interpolate(one, size=values.shape[:2], mode="bilinear", align_corners=False)[0]
        for one in fitted([tensors])(tensors)
    ]
    return np.concatenate([values, torch.cat(planes).permute(1, 2, 0).numpy()], axis=2)


class FeaturePlanes(nn.Module):
    """From images to planes of features, at the size of the image, by a backbone and a fixed projection.

    The backbone sees the image at its own size, and grey at the right and below, so that its coarsest map covers all of
    the image. That is the same for images of any size: exported graphs need not compute it.

    Args:
        backbone: a module, too.
        projection: of its maps.

    Attributes:
        dtype: in which the backbone computes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: MapSource, projection: Projection) -> None:
        super().__init__()
        self.backbone = backbone
        self.dtype = torch.float32
        self.projection = projection
        contract = backbone.contract
        self._kept: OrderedDict[bytes, list[Tensor]] = OrderedDict()
        self.register_buffer("mean", torch.tensor(contract.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(contract.std)[:, None, None], persistent=False)

    @classmethod
    @torch.no_grad()
    def fitted_to(cls, backbone: MapSource, images: Iterable[Tensor]) -> FeaturePlanes:
        """With the principal components of images ``[1, 1 or 3, H, W]`` of 0..1."""
        unfitted = cls(backbone, Projection(()))

        def maps(image: Tensor) -> list[Tensor]:
            check_features_memory(image.shape[2:], backbone.largest, 0, image.device)
            return unfitted.maps(image)

        return cls(backbone, fitted(maps(image) for image in images))

    def maps(self, image: Tensor) -> list[Tensor]:
        """Of the backbone, for ``[B, 1 or 3, H, W]`` of 0..1."""
        beside = self.backbone.beside
        x = ((image - self.mean) / self.std).to(self.dtype)
        return self.backbone(functional.pad(x, (0, beside, 0, beside)))

    def forward(self, image: Tensor) -> Tensor:
        """``[B, 1 or 3, H, W]`` of 0..1 to ``[B, planes, H, W]``."""
        return self._enlarged(self.projection(self.maps(image)), *image.shape[-2:])

    @torch.no_grad()
    def of_image(self, pixels: NDArray[Any], part: tuple[slice, slice] | None = None) -> Tensor:
        """``[planes, H, W]`` of pixels ``[H, W, 1 or 3]`` of uint8, uint16 or float32, made once an image.

        What is kept is small, the components before they are enlarged, of the images that were asked for last.

        Args:
            pixels: of the whole image.
            part: rows and columns that are wanted; None: all.
        """
        key = hashlib.sha256(
            repr((pixels.dtype, pixels.shape)).encode() + np.ascontiguousarray(pixels).tobytes()
        ).digest()
        if key not in self._kept:
            check_features_memory(pixels.shape, self.backbone.largest, self.projection.planes, self.mean.device)
            image = torch.from_numpy(unit_values(pixels)).permute(2, 0, 1)[None].to(self.mean.device)
            self._kept[key] = self.projection(self.maps(image))
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(one.nbytes for kept in self._kept.values() for one in kept) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        if part is None:
            return self._enlarged(self._kept[key], *pixels.shape[:2])[0]
        return torch.cat(
            [
                _enlarged_part(one, stride, part)
                for one, stride in zip(self._kept[key], self.backbone.strides, strict=True)
            ],
            dim=1,
        )[0]

    def _enlarged(self, components: Sequence[Tensor], height: int, width: int) -> Tensor:
        planes = [_enlarged(one, stride) for one, stride in zip(components, self.backbone.strides, strict=True)]
        return torch.cat([one[..., :height, :width] for one in planes], dim=1)


def _enlarged(component: Tensor, stride: int) -> Tensor:
    if stride == 1:
        return component
    return functional.interpolate(component, scale_factor=stride, mode="bilinear", align_corners=False)


def _enlarged_part(component: Tensor, stride: int, part: tuple[slice, slice]) -> Tensor:
    """The same rows and columns of ``_enlarged(component, stride)``, from their cells and those beside them alone."""
    cells = tuple(slice(max(0, one.start // stride - 1), (one.stop - 1) // stride + 2) for one in part)
    rows, columns = (
        slice(one.start - stride * of_cells.start, one.stop - stride * of_cells.start)
        for one, of_cells in zip(part, cells, strict=True)
    )
    return _enlarged(component[..., cells[0], cells[1]], stride)[..., rows, columns]
