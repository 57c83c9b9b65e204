"""The loss in the form of the published scripts, in plain eager PyTorch: the competitor of every loss benchmark.

The scripts copy the response map to channels last, take its labels, hold the differences of neighbours against maps of zeros
with ``L1Loss`` and the responses against their own labels with ``CrossEntropyLoss``, and count labels as a Python number,
for which the program waits. The maps of zeros are made once, before the first step. Everything is done in the dtype of
the map. The formulas are those of ``dynamicseg.reference``, which a test compares with this.

Two places are kinder to the competitor than the scripts are: the single image is not cut out of its batch by an index, whose
gradient would be one more map, and a map that is channels last already is not copied.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dynamicseg.reference import DEFAULT_MU, Weighting


class PublishedLoss(nn.Module):
    """Loss of one image, with the maps of zeros for its size.

    Args:
        height, width: of the image, in pixels, both >= 2: each ``L1Loss`` is a mean over neighbours, which must exist.
        channels: C, number of candidate labels.
        weighting, mu: see ``dynamicseg.reference``.
        dtype, device: of the response maps to come.
    """

    vertical_zeros: Tensor
    horizontal_zeros: Tensor

    def __init__(
        self,
        height: int,
        width: int,
        channels: int,
        *,
        weighting: Weighting = "fsf",
        mu: float | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        if min(height, width) < 2:
            raise ValueError(f"the map is {height}x{width}: the published form needs at least 2x2 pixels")
        self.weighting = weighting
        self.mu = DEFAULT_MU[weighting] if mu is None else mu
        self.cross_entropy = nn.CrossEntropyLoss()
        self.l1_vertical = nn.L1Loss()
        self.l1_horizontal = nn.L1Loss()
        for name, shape in (
            ("vertical_zeros", (height - 1, width, channels)),
            ("horizontal_zeros", (height, width - 1, channels)),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Loss, a scalar in the dtype of ``x``, of the response map ``x`` ``[1, C, H, W]`` in either memory format."""
        _, channels, height, width = x.shape
        responses = x.permute(0, 2, 3, 1).contiguous().view(height * width, channels)
        labels = responses.argmax(dim=1)

        grid = responses.view(height, width, channels)
        vertical = self.l1_vertical(grid[1:] - grid[:-1], self.vertical_zeros)
        horizontal = self.l1_horizontal(grid[:, 1:] - grid[:, :-1], self.horizontal_zeros)

        similarity: Tensor = self.cross_entropy(responses, labels)
        label_count = len(torch.unique(labels))
        loss: Tensor = similarity + self.weight(label_count) * (vertical + horizontal)
        return loss

    def weight(self, label_count: int) -> float:
        """Weight on continuity, from the number of labels of the image."""
        if self.weighting == "fsf":
            return label_count / self.mu
        if self.weighting == "scf":
            return self.mu / label_count
        return self.mu
