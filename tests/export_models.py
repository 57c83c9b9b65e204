"""Models as the tests of export need them: small, quick to make, with statistics other than those of a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from torch import nn

from dynamicseg.io import label_palette, write_image
from dynamicseg.losses import DynamicLoss
from dynamicseg.model import SegmentationNetwork
from dynamicseg.model_description import ModelDescription, NetworkOptions
from dynamicseg.trained_model import TrainedModel

ARCHITECTURES: list[dict[str, Any]] = [
    {"order": "norm_relu"},
    {"order": "relu_norm", "width": 7, "depth": 3},
    {"order": "relu_norm", "depth": 3, "dilation_growth": 2, "stride": 2},
    {"order": "norm_relu", "stride": 4, "depth": 3, "dilation_growth": 2},
    {"order": "norm_relu", "coordinates": True, "stride": 2},
    {"order": "relu_norm", "depth": 1, "coordinates": True},
]
"""Options of networks that are folded or exported in different ways."""


def a_model(bands: int = 3, labels: int = 5, seed: int = 1, steps: int = 0, **options: Any) -> TrainedModel:
    """A network in evaluation mode, its statistics those of a photo.

    Without ``steps`` of training its batch norms are unlike each other, so that a mistake in any of them shows.
    """
    network_options = NetworkOptions(**{"width": 8, "depth": 2, "order": "norm_relu", **options})
    torch.manual_seed(seed)
    network = SegmentationNetwork(bands, labels, network_options)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    photos = torch.from_numpy(photo(bands)).permute(2, 0, 1)[None].float() / 255
    _train(network, photos, steps)
    with torch.no_grad():
        for norm in norms if steps == 0 else []:
            norm.weight.uniform_(0.5, 1.5).mul_(torch.sign(torch.randn_like(norm.weight)))
            norm.bias.uniform_(-1, 1)
        for norm in norms:
            norm.momentum = None  # the mean over what it has seen
            norm.reset_running_stats()
        network(photos)
    description = ModelDescription(
        package_version="1.2.3",
        created_with={"torch": "9"},
        bands=bands,
        label_count=labels,
        palette=tuple(tuple(colour) for colour in label_palette(labels).tolist()),
        label_areas=(1.0,) + (0.0,) * (labels - 1),
        network=network_options,
        receptive_field=network_options.receptive_field,
        training={"seed": seed},
    )
    return TrainedModel(network.eval().requires_grad_(False), description)


def _train(network: SegmentationNetwork, images: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    loss = DynamicLoss(weighting="fsf")
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network(images)).loss.backward()
        optimizer.step()


def photo(bands: int = 3) -> NDArray[np.uint8]:
    """A piece of a photo, uint8 ``[96, 120, bands]``."""
    piece: NDArray[np.uint8] = skimage.data.astronaut()[60:252:2, 100:340:2]
    return np.ascontiguousarray(np.concatenate([piece] * (1 + bands // 3), axis=2)[..., :bands])


def photo_folder(folder: Path, bands: int = 3) -> Path:
    """A folder with two images of 96x120."""
    folder.mkdir(parents=True, exist_ok=True)
    image = photo(bands)
    if bands == 1:
        image = image[..., 0]
    write_image(folder / "a.png", image)
    write_image(folder / "b.png", np.ascontiguousarray(image[::-1]))
    return folder
