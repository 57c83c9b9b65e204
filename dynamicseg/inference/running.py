"""What every runtime offers, whatever the kind of file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dynamicseg.inference.contract import ModelContract

DEVICE_HELP = "auto, cpu, cuda or cuda:N"


class RunningModel(Protocol):
    """A model file in a runtime, ready to run.

    Attributes:
        contract: what goes in and what comes out.
        batch: how many images a call takes; None: any number.
        size: height and width of the images that it takes; None: any.
        largest: height and width that no image may exceed; None: there is no limit but memory.
        bytes_per_pixel: about how much memory a pixel takes on its way through the model.
        facts: what runs it, ready for JSON: ``runtime``, ``provider``, ``device``, ``threads`` (None: not known).
    """

    contract: ModelContract
    batch: int | None
    size: tuple[int, int] | None
    largest: tuple[int, int] | None
    bytes_per_pixel: int
    facts: Mapping[str, Any]

    def free_memory(self) -> int | None:
        """Bytes that the device which runs it had left, or has; None: not known."""
        ...

    def labels(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """``[B, H, W, bands]`` to ``[B, H, W]``: the label of each pixel."""
        ...


def cuda_index(device: str) -> int | None:
    """Of the GPU that ``device`` names; None: it names none.

    Raises:
        ValueError: it is no device.
    """
    kind, colon, number = device.partition(":")
    if device in ("auto", "cpu"):
        return None
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise ValueError(f"device wants {DEVICE_HELP}, not {device!r}")
    return int(number or 0)
