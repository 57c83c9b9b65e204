"""The network whose responses are the candidate labels of each pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynamicseg import ops
from dynamicseg.config import SegmenterConfig


class SegmentationNetwork(nn.Module):
    """The published network: ``depth`` times 3x3 convolution, ReLU, batch norm; then 1x1 convolution, batch norm.

    Batch norm uses the statistics of the image at hand throughout, as in the published loop, which never leaves
    training mode. Layers are created in the order in which they run, with PyTorch's default initialisation.

    Args:
        in_channels: bands of the image.
        channels: width of every layer, and number of candidate labels.
        depth: number of 3x3 convolutions.
    """

    def __init__(self, in_channels: int, channels: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for layer in range(depth):
            layers.append(nn.Conv2d(in_channels if layer == 0 else channels, channels, kernel_size=3, padding=1))
            layers.append(nn.ReLU())
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.Conv2d(channels, channels, kernel_size=1))
        layers.append(nn.BatchNorm2d(channels))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` image to ``[B, channels, H, W]`` response map."""
        response: Tensor = self.layers(image)
        return response

    def before_last_norm(self, image: Tensor) -> Tensor:
        """``[B, in_channels, H, W]`` image to ``[B, channels, H, W]``, which ``last_norm`` makes the response map.

        ReLU and batch norm are fused, so that the last bits differ from those of ``forward``; running statistics are
        left as they are.
        """
        *hidden, last_convolution, _ = self.layers
        for convolution, _, norm in zip(*[iter(hidden)] * 3, strict=True):
            image = ops.relu_batch_norm(convolution(image), norm.weight, norm.bias, eps=norm.eps)
        features: Tensor = last_convolution(image)
        return features

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm that gives the response map."""
        norm = self.layers[-1]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm


def seeded_network(in_channels: int, config: SegmenterConfig) -> SegmentationNetwork:
    """The network as ``torch.manual_seed(config.seed)`` and creating it give it, on the CPU.

    The caller's own random numbers go on as if nothing had happened.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return SegmentationNetwork(in_channels, config.channels, config.depth)
