"""The network whose responses are the candidate labels of each pixel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicseg import ops
from dynamicseg.config import SegmenterConfig
from dynamicseg.model_description import NetworkOptions

if TYPE_CHECKING:
    from dynamicseg.features.planes import FeaturePlanes


class SegmentationNetwork(nn.Module):
    """The published network: ``depth`` times 3x3 convolution, ReLU, batch norm; then 1x1 convolution, batch norm.

    In training mode batch norm uses the statistics of the images at hand, as in the published loop, which never leaves
    that mode; in evaluation mode the running statistics. Layers are created in the order in which they run, with
    PyTorch's default initialisation.

    Args:
        bands: of the image.
        labels: number of candidate labels.
        options: width, depth, and how far it is from the published one.
        features: what gives the planes of features that ``options`` has; they are no part of what is trained or saved
            with the network. None where there are none, or where ``input_planes`` is not asked for.

    Attributes:
        bands: as given.
        options: as given.
    """

    def __init__(self, bands: int, labels: int, options: NetworkOptions, features: FeaturePlanes | None = None) -> None:
        super().__init__()
        self.bands = bands
        self.options = options
        self._features = (features,)  # in a tuple, where ``state_dict`` does not see it
        in_channels = bands + options.feature_planes + (2 if options.coordinates else 0)
        layers: list[nn.Module] = []
        for dilation in options.dilations:
            if options.stride > 1 and not layers:
                # Padding comes before, for it is not the same on both sides.
                convolution = nn.Conv2d(in_channels, options.width, 2 * options.stride, stride=options.stride)
            else:
                convolution = nn.Conv2d(in_channels, options.width, 3, padding=dilation, dilation=dilation)
            norm_and_relu = [nn.BatchNorm2d(options.width), nn.ReLU()]
            layers += [convolution, *(norm_and_relu if options.order == "norm_relu" else reversed(norm_and_relu))]
            in_channels = options.width
        layers.append(nn.Conv2d(in_channels, labels, kernel_size=1))
        layers.append(nn.BatchNorm2d(labels))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """``[B, bands, H, W]`` image to ``[B, labels, H, W]`` response map."""
        return self.responses(self.input_planes(image))

    def responses(self, planes: Tensor) -> Tensor:
        """The same for what ``input_planes`` made of the image, the whole of it or a part."""
        return self.enlarged(self.layers(self.padded(planes)), planes)

    @property
    def features(self) -> FeaturePlanes | None:
        """As given."""
        return self._features[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], *arguments: Any, **options: Any) -> SegmentationNetwork:
        """Features go where the network goes."""
        if self.features is not None:
            self.features._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, *arguments, **options)  # type: ignore[no-untyped-call]
        return self

    def input_planes(self, image: Tensor) -> Tensor:
        """``[B, bands, H, W]`` and what else the network wants: features, then row and column of each pixel."""
        planes = [image]
        if self.options.feature_planes:
            assert self.features is not None
            planes.append(self.features(image))
        if self.options.coordinates:
            batch, _, height, width = image.shape
            rows, columns = (torch.arange(size, device=image.device) for size in (height, width))
            place = coordinates(rows, columns, height, width).to(image.dtype)
            planes.append(place.expand(batch, 2, height, width))
        return torch.cat(planes, dim=1) if len(planes) > 1 else image

    def padded(self, planes: Tensor) -> Tensor:
        """With zeros around it, so that a first convolution with a stride gives H / stride rows, rounded up."""
        stride = self.options.stride
        if stride == 1:
            return planes
        before, after = stride // 2, stride // 2 + stride - 1
        return functional.pad(planes, (before, after, before, after))

    def enlarged(self, response: Tensor, image: Tensor) -> Tensor:
        """A response map at the size of the image, of which it has one pixel for ``stride`` x ``stride``."""
        stride = self.options.stride
        if stride == 1:
            return response
        full = functional.interpolate(response, scale_factor=stride, mode="bilinear", align_corners=False)
        return full[..., : image.shape[-2], : image.shape[-1]]

    def before_last_norm(self, planes: Tensor) -> Tensor:
        """What ``last_norm`` makes the response map, before it is enlarged, in training mode.

        ReLU and batch norm are fused, so that the last bits differ from those of ``forward``; running statistics are
        left as they are.

        Args:
            planes: ``[B, bands, H, W]``, or what ``input_planes`` made of it: the whole of it or a part.

        Returns:
            ``[B, labels, H, W]``, with H and W divided by the stride and rounded up.
        """
        x = self.padded(planes)
        *hidden, last_convolution, _ = self.layers
        for convolution, second, third in zip(*[iter(hidden)] * 3, strict=True):
            if self.options.order == "relu_norm":
                x = ops.relu_batch_norm(convolution(x), third.weight, third.bias, eps=third.eps)
            else:
                x = third(ops.relu_batch_norm(convolution(x), second.weight, second.bias, relu=False, eps=second.eps))
        features: Tensor = last_convolution(x)
        return features

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The batch norm that gives the response map."""
        norm = self.layers[-1]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm


def network_with(
    bands: int,
    labels: int,
    options: NetworkOptions,
    numbers: Mapping[str, Tensor],
    features: FeaturePlanes | None = None,
) -> SegmentationNetwork:
    """The network that has these parameters and running statistics, in evaluation mode, not to be trained.

    It takes the tensors themselves where they are contiguous, and no random numbers.
    """
    with torch.device("meta"):
        network = SegmentationNetwork(bands, labels, options, features)
    counters = {name: torch.tensor(0) for name in network.state_dict() if name not in numbers}
    dense = {name: tensor.contiguous() for name, tensor in numbers.items()}
    network.load_state_dict({**dense, **counters}, assign=True)
    return network.eval().requires_grad_(False)


def coordinates(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Planes ``[2, h, w]`` for rows ``[h]`` and columns ``[w]``, given by number, of an image of this size."""
    down, right = (2 * rows + 1) / height - 1, (2 * columns + 1) / width - 1
    size = rows.shape[0], columns.shape[0]  # not len(), which torch.export takes for a constant
    return torch.stack([down[:, None].expand(size), right.expand(size)])


def seeded_network(in_channels: int, config: SegmenterConfig) -> SegmentationNetwork:
    """The network as ``torch.manual_seed(config.seed)`` and creating it give it, on the CPU.

    The caller's own random numbers go on as if nothing had happened.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        options = NetworkOptions(width=config.channels, depth=config.depth)
        return SegmentationNetwork(in_channels, config.channels, options)
