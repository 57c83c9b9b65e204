"""After training: the statistics of batch norm over whole images, and the labels that are left, ordered by area."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dynamicseg.io import unit_values
from dynamicseg.model import SegmentationNetwork, coordinates, network_with
from dynamicseg.model_description import NetworkOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of an image that goes through the network at once. Larger ones go in strips, so that a photo of any size takes as
# little memory as a small one.
_PIXELS_AT_ONCE = 1 << 20

WholeImages = Callable[[], Iterator["NDArray[Any]"]]
"""Goes over the images ``[H, W, bands]`` once more at each call."""


class _Strip(NamedTuple):
    planes: Tensor  # [1, bands, h, W], with coordinates if the network wants them
    inner: tuple[int, int]  # rows that come out as of the whole image: first, a multiple of the stride, and end


def recalibrate(network: SegmentationNetwork, images: WholeImages) -> None:
    """Sets the running statistics to mean and variance over all pixels of all images, exactly, layer by layer.

    The statistics of a layer depend on those before it, so that the images go through the network once for each.
    The network is left in evaluation mode.
    """
    network.eval()
    layers = list(network.layers)
    for depth, norm in enumerate(layers):
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        assert norm.running_mean is not None
        assert norm.running_var is not None
        sums = torch.zeros(2, norm.num_features, dtype=torch.float64)
        pixels = 0
        for strip in _strips(images(), network):
            x = network.padded(strip.planes)
            for layer in layers[:depth]:
                x = layer(x)
            first, end = (-(-row // network.options.stride) for row in strip.inner)
            inner = x[:, :, first:end].double()
            sums += torch.stack([inner.sum(dim=(0, 2, 3)), inner.square().sum(dim=(0, 2, 3))]).cpu()
            pixels += inner.shape[2] * inner.shape[3]
        mean, mean_square = sums / pixels
        norm.running_mean.copy_(mean)
        norm.running_var.copy_((mean_square - mean.square()).clamp_(min=0))


def label_areas(network: SegmentationNetwork, images: WholeImages, labels: int) -> NDArray[np.int64]:
    """How many pixels of all images have each label, ``[labels]``."""
    areas = torch.zeros(labels, dtype=torch.int64)
    for strip in _strips(images(), network):
        found = network.responses(strip.planes)[0, :, slice(*strip.inner)].argmax(dim=0)
        areas += torch.bincount(found.flatten(), minlength=labels).cpu()
    return areas.numpy()


def with_labels(network: SegmentationNetwork, kept: NDArray[np.int64]) -> SegmentationNetwork:
    """The network with just these of its labels, in this order, in evaluation mode."""
    numbers = torch.from_numpy(kept)
    state = network.state_dict()
    for name in state:
        of_last_two = int(name.split(".")[1]) >= len(network.layers) - 2
        if of_last_two and state[name].ndim:
            state[name] = state[name].cpu()[numbers]
    return network_with(network.bands, len(kept), network.options, state, network.features)


def _strips(images: Iterator[NDArray[Any]], network: SegmentationNetwork) -> Iterator[_Strip]:
    device = next(network.parameters()).device
    for pixels in images:
        # Of the whole image: what lies in one strip depends on all of it.
        features = None if network.features is None else network.features.of_image(pixels)
        for first, last, begin, end in _row_ranges(pixels.shape[0], pixels.shape[1], network.options):
            planes = torch.from_numpy(unit_values(pixels[first:last])).permute(2, 0, 1)
            if features is not None:
                planes = torch.cat([planes, features[:, first:last].to(planes.device)])
            if network.options.coordinates:
                height, width = pixels.shape[:2]
                planes = torch.cat([planes, coordinates(torch.arange(first, last), torch.arange(width), height, width)])
            yield _Strip(planes[None].to(device), (begin - first, end - first))


def _row_ranges(height: int, width: int, options: NetworkOptions) -> Iterator[tuple[int, int, int, int]]:
    """``(first, last, begin, end)``: rows that go in, and those of them that come out as those of the whole image."""
    stride = options.stride
    margin = -(-options.reach // stride) * stride
    rows = max(stride, _PIXELS_AT_ONCE // width // stride * stride)
    for begin in range(0, height, rows):
        end = min(height, begin + rows)
        yield max(0, begin - margin), min(height, end + margin), begin, end
