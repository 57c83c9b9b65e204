"""The published loop in plain eager PyTorch, as its authors describe it: what the paper preset must reproduce."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


class PublishedNet(nn.Module):
    """Layer for layer in the order in which the published script creates them."""

    def __init__(self, in_channels: int, channels: int = 100, convolutions: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, kernel_size=3, stride=1, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.ModuleList()
        self.bn2 = nn.ModuleList()
        for _ in range(convolutions - 1):
            self.conv2.append(nn.Conv2d(channels, channels, kernel_size=3, stride=1, padding=1))
            self.bn2.append(nn.BatchNorm2d(channels))
        self.conv3 = nn.Conv2d(channels, channels, kernel_size=1, stride=1, padding=0)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(torch.relu(self.conv1(x)))
        for convolution, norm in zip(self.conv2, self.bn2, strict=True):
            x = norm(torch.relu(convolution(x)))
        result: torch.Tensor = self.bn3(self.conv3(x))
        return result


def published_loop(
    image: NDArray[np.uint8], *, weighting: str, mu: float, steps: int, seed: int, min_labels: int = 3
) -> tuple[list[float], list[int], NDArray[np.int64]]:
    """Losses and label counts of each step, and the labels of the last forward pass, for an RGB image [H, W, 3]."""
    height, width, _ = image.shape
    data = torch.from_numpy((image.transpose(2, 0, 1).astype("float32") / 255.0)[None])
    torch.manual_seed(seed)
    model = PublishedNet(data.shape[1])
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    cross_entropy, vertical_l1, horizontal_l1 = nn.CrossEntropyLoss(), nn.L1Loss(), nn.L1Loss()
    losses: list[float] = []
    counts: list[int] = []
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(data)[0]
        channels = output.shape[0]
        output = output.permute(1, 2, 0).contiguous().view(-1, channels)
        as_image = output.reshape(height, width, channels)
        vertical = as_image[1:, :, :] - as_image[:-1, :, :]
        horizontal = as_image[:, 1:, :] - as_image[:, :-1, :]
        continuity = vertical_l1(vertical, torch.zeros_like(vertical)) + horizontal_l1(
            horizontal, torch.zeros_like(horizontal)
        )
        target = output.argmax(dim=1)
        n_labels = len(np.unique(target.numpy()))
        weight = {"fsf": n_labels / mu, "scf": mu / n_labels, "fixed": mu}[weighting]
        loss = cross_entropy(output, target) + weight * continuity
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        counts.append(n_labels)
        if n_labels <= min_labels:
            break
    return losses, counts, target.numpy().reshape(height, width)
