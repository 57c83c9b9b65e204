"""One image in, one ``Segmentation`` out."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dynamicseg.config import Precision, Preset, SegmenterConfig, configure
from dynamicseg.io import as_image
from dynamicseg.segmentation import Segmentation, relabel_by_area
from dynamicseg.trainer import OnStep, train_on_image
from dynamicseg.weighting import Weighting

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Arrays of the size of a response map that are alive at once in a training step: those kept for the backward pass (a
# convolution's input, ReLU's and batch norm's for each layer), gradients, and what the convolution libraries reorder.
_MAPS_PER_LAYER = 4
_MAPS_BESIDES = 4


class Segmenter:
    """Segments images one by one, each with a network of its own trained on it.

    >>> segmentation = Segmenter(weighting="scf", max_steps=50).segment("photo.jpg")
    >>> segmentation.labels  # int32 [H, W]

    Args:
        preset: ``"paper"``, the published network and schedule.
        weighting: ``"fsf"`` (K / mu), ``"scf"`` (mu / K) or ``"fixed"`` (mu), with K the number of labels still alive.
        mu: constant of the weighting, > 0; by default the published one: 15, 50, 1.
        max_steps: training ends after this many steps at the latest.
        min_labels: training ends after the first step with this many labels or fewer.
        seed: the same seed gives the same labels on the same machine.
        device: ``"auto"`` (a CUDA GPU if there is one, else the CPU), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        precision: of the convolutions: ``"float32"``, ``"bfloat16"`` (faster, other rounding), or ``"auto"``, which
            leaves it to the preset.

    Attributes:
        config: the ``SegmenterConfig``, with device and precision as they will be used.

    Raises:
        ValueError: an argument is out of range, or the device is not there.
    """

    def __init__(
        self,
        preset: Preset = "paper",
        weighting: Weighting | None = None,
        mu: float | None = None,
        max_steps: int | None = None,
        min_labels: int | None = None,
        seed: int = 0,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> None:
        config = configure(
            preset,
            weighting=weighting,
            mu=mu if mu is None else float(mu),
            max_steps=max_steps,
            min_labels=min_labels,
            seed=seed,
            device=device,
            precision=None if precision == "auto" else precision,
        )
        self.config: SegmenterConfig = config.model_copy(update={"device": str(_present_device(config.device))})

    def segment(self, image: object, *, channel_axis: int | None = None, on_step: OnStep | None = None) -> Segmentation:
        """Trains on ``image`` and returns its segmentation.

        Args:
            image: path, PIL image, or array ``[H, W]`` or ``[H, W, C]`` of any C: uint8 or uint16, taken as 0..1 of
                their range, or float, taken as it is.
            channel_axis: which axis of a 3-D array or file holds the bands; default: the last, or what the file says.
            on_step: called after each training step with its ``StepRecord``.

        Raises:
            ValueError, TypeError: the image is not one, see ``io.as_image``; or the loss does not stay finite.
            MemoryError: training on an image of this size does not fit into memory.
            OSError: the file cannot be read.
        """
        started = time.perf_counter()
        pixels = as_image(image, channel_axis=channel_axis)
        read = time.perf_counter()
        if pixels.shape[:2] == (1, 1):
            raise ValueError("an image of 1x1 pixel cannot be segmented: training compares at least 2 pixels")
        device = torch.device(self.config.device)
        _check_memory(pixels.shape, self.config, device)
        try:
            trained = train_on_image(_network_input(pixels).to(device), self.config, on_step)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise MemoryError(_too_large(pixels.shape, self.config, device)) from None
            raise
        labels = relabel_by_area(trained.labels.cpu().numpy())
        ended = time.perf_counter()
        return Segmentation(
            labels=labels,
            n_labels=int(labels.max()) + 1,
            history=trained.history,
            config=self.config,
            timings={"read": read - started, "train": ended - read, "total": ended - started},
            image=pixels,
            source=os.fspath(image) if isinstance(image, (str, os.PathLike)) else None,
        )


def segment(
    image: object, *, channel_axis: int | None = None, on_step: OnStep | None = None, **options: Any
) -> Segmentation:
    """Segments one image: ``Segmenter(**options).segment(image)``; see there for options, image and errors.

    >>> segmentation = segment("photo.jpg", max_steps=50)
    >>> segmentation.save("out", "photo")
    """
    return Segmenter(**options).segment(image, channel_axis=channel_axis, on_step=on_step)


def _present_device(name: str) -> torch.device:
    """The device of that name, if the machine has it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name}: PyTorch {torch.__version__} finds no CUDA GPU here; use cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name}: there are only {torch.cuda.device_count()} GPUs, numbered from 0")
    return device


def _network_input(image: NDArray[Any]) -> Tensor:
    """``[H, W, C]`` as read to ``[1, C, H, W]`` float32; integers are divided by the largest number of their type."""
    values = torch.from_numpy(image.astype(np.float32))
    if image.dtype.kind == "u":
        values /= float(np.iinfo(image.dtype).max)
    return values.permute(2, 0, 1)[None]


def _training_bytes(shape: tuple[int, ...], config: SegmenterConfig) -> int:
    """About how much memory training on an image ``[H, W, C]`` takes."""
    maps = _MAPS_PER_LAYER * (config.depth + 1) + _MAPS_BESIDES
    element = 2 if config.precision == "bfloat16" else 4
    return shape[0] * shape[1] * config.channels * element * maps


def _too_large(shape: tuple[int, ...], config: SegmenterConfig, device: torch.device) -> str:
    return (
        f"training on {shape[1]}x{shape[0]} pixels takes about {_training_bytes(shape, config) / 1e9:.1f} GB, "
        f"more than the memory that is free on {device}: make the image smaller or cut it into parts"
    )


def _check_memory(shape: tuple[int, ...], config: SegmenterConfig, device: torch.device) -> None:
    """Refuses what would not fit, before the system starts to swap or ends the process."""
    if device.type != "cpu" or not os.path.exists("/proc/meminfo"):
        return
    with open("/proc/meminfo", encoding="ascii") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    if _training_bytes(shape, config) > available:
        raise MemoryError(_too_large(shape, config, device))
