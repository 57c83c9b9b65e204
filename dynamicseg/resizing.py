"""Images to a smaller size, and their label maps back to the size of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def size_within(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """Height and width of the image once its longer side is ``max_side`` at the most; None: as it is.

    The shorter side keeps the proportion, rounded, and is at least 1.
    """
    longer = max(height, width)
    if max_side is None or longer <= max_side:
        return height, width
    return max(1, round(height * max_side / longer)), max(1, round(width * max_side / longer))


def reduced(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """The image ``[H, W, C]``, any C, at ``size`` (height, width), neither of them larger than before.

    Each pixel becomes the weighted mean of all those that it stands for, so fine patterns fade and do not turn into
    coarse ones. With the size that it has, the image comes back as it is.
    """
    if values.shape[:2] == size:
        return values
    import torch  # not at the top: labels are resized where there is no PyTorch
    from torch.nn import functional

    image = torch.from_numpy(values).permute(2, 0, 1)[None]
    smaller = functional.interpolate(image, size=size, mode="bilinear", antialias=True)
    # The weights add up to a little more than 1, and a white that is whiter than 1 would count as another range.
    within = smaller.clamp_(float(values.min()), float(values.max()))
    return np.ascontiguousarray(within[0].permute(1, 2, 0).numpy())


def resized_labels(labels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The label map ``[h, w]`` at ``size`` (height, width): each pixel has the nearest label.

    No label is new, and none is lost where neither side is smaller than before.
    """
    if labels.shape == size:
        return labels
    rows, columns = (nearest(old, new) for old, new in zip(labels.shape, size, strict=True))
    return labels[rows[:, None], columns]


def nearest(old: int, new: int) -> NDArray[np.int64]:
    """For each of ``new`` pixels in a row, which of ``old`` pixels lies over its centre; in whole numbers, so exact."""
    return (2 * np.arange(new, dtype=np.int64) + 1) * old // (2 * new)
