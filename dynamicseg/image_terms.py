"""What the loss of one image is told besides its response map, as tensors on its device."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageTerms:
    """Of one image; maps are ``[1, h, w]``, all on one device, and None where there is nothing to tell.

    Attributes:
        superpixels: int64, see ``ops.dynamic_loss``, as for the three that follow.
        mask: bool, true where there is data.
        scribbles: int64, the channel of each label drawn, -1 elsewhere.
        guide: int64, a channel for each region, -1 where any label will do.
        label_floor: the least number of labels to count in the weight.
        least_labels: training never goes on with fewer labels, for so many are drawn.
    """

    superpixels: Tensor | None = None
    mask: Tensor | None = None
    scribbles: Tensor | None = None
    guide: Tensor | None = None
    label_floor: int = 1
    least_labels: int = 0

    @property
    def kind(self) -> tuple[object, ...]:
        """What a captured step cannot change: which maps there are, and the floor."""
        return (*(tensor is not None for tensor in self._maps().values()), self.label_floor)

    def copied(self) -> ImageTerms:
        """With maps of its own."""
        return replace(self, **{name: None if one is None else one.clone() for name, one in self._maps().items()})  # type: ignore[arg-type]

    def overwrite(self, others: ImageTerms) -> None:
        """Takes over the maps of others of the same kind and size, in its own memory."""
        of_others = others._maps()
        for name, tensor in self._maps().items():
            other = of_others[name]
            if tensor is not None and other is not None:
                tensor.copy_(other)

    def _maps(self) -> dict[str, Tensor | None]:
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _NUMBERS}


_NUMBERS = ("label_floor", "least_labels")


def guide_weights(weight: float, fades: bool, steps: int) -> Tensor:
    """``[steps]`` float32: what the guide counts at each step; where it fades, in a straight line down to 0."""
    if not fades or steps == 1:
        return torch.full((steps,), weight)
    return weight * torch.linspace(1.0, 0.0, steps)
