"""From images to a ``TrainedModel``: what is trained on, carrying on, and the last touches."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dynamicseg._words import counted
from dynamicseg.devices import present_device, present_precision, repeatable_convolutions
from dynamicseg.features.options import FeatureOptions
from dynamicseg.features.planes import FeaturePlanes
from dynamicseg.features.sources import described_source, map_source
from dynamicseg.guidance import LabelFile
from dynamicseg.guidance_files import find_guidance
from dynamicseg.inputs import find_images
from dynamicseg.io import label_palette
from dynamicseg.model import SegmentationNetwork
from dynamicseg.model_description import BackboneDescription, ModelDescription
from dynamicseg.segmentation import package_version
from dynamicseg.terms import DEFAULT_SCRIBBLE_NONE
from dynamicseg.trained_model import TrainedModel, batch_of
from dynamicseg.training.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from dynamicseg.training.config import TrainingConfig, configure_training
from dynamicseg.training.images import ImageSet, OnFailure, listed
from dynamicseg.training.loop import (
    OF_SPLIT,
    Look,
    OnTrainingStep,
    Progress,
    Stopped,
    TrainingRecord,
    begin,
    run,
)
from dynamicseg.training.scribbles import order_of_labels, read_strokes
from dynamicseg.training.statistics import label_areas, recalibrate, with_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Statistics and areas of more images than these would be no different.
_IMAGES_FOR_STATISTICS = 256
_IMAGES_FOR_PROJECTION = 64
_CHECKPOINT_SECONDS = 30.0
# Whole images take longer some times than others, and the file is still to be written.
_FINISHING_MARGIN = 1.3


@dataclass(frozen=True, eq=False)
class Training:
    """A training that has ended.

    Attributes:
        model: its result.
        config: with device and precision as they were used.
        history: one record for each step.
        looks: at the images that were held out.
        stopped: why it ended.
        seconds: all of it.
    """

    model: TrainedModel
    config: TrainingConfig
    history: list[TrainingRecord]
    looks: list[Look]
    stopped: Stopped
    seconds: float


def train(
    images: object,
    *,
    channel_axis: int | None = None,
    scribbles: object = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_step: OnTrainingStep | None = None,
    **options: Any,
) -> TrainedModel:
    """Trains one network for a set of images: its labels mean the same in all of them, and in others like them.

    >>> model = train("photos/", n_labels=8, time_budget=600)
    >>> model.save("model.safetensors")
    >>> model.predict_array(image)

    Args:
        images: file, folder or pattern, or a sequence of these, of PIL images or of arrays, see ``io.as_image``; all
            with the same number of bands.
        channel_axis: see ``io.as_image``.
        scribbles: what some pixels of some images are called: a file or folder of label images, which go with files by
            their stems (see ``guidance_files.find_guidance``), or a sequence with one for each image, None for none,
            see ``Segmenter.segment``. These labels keep their numbers, so that ``n_labels`` is above all of them.
        checkpoint: a file that is written every 30 seconds, to ``resume`` from; remove it when the model is saved.
        resume: goes on from the checkpoint, if there is one: with the same images and options, to the same bits.
        on_step: called after each step with its ``TrainingRecord``.
        options: of ``TrainingConfig`` and ``NetworkOptions``, whose fields say what they mean: ``n_labels``, ``steps``,
            ``time_budget``, ``width``, ``depth``, ``order``, ``stride``, ``coordinates``, ``seed`` and others.

    Raises:
        ValueError, TypeError: an image or an option is none; or the loss does not stay finite.
        OSError: an image cannot be read, or the checkpoint not be written.
    """
    sources, problems = listed(images)
    if problems:
        raise ValueError(problems[0])
    if isinstance(scribbles, (str, os.PathLike)):
        sources, scribbles = _with_files(sources, Path(scribbles))
    config = usable(configure_training(**options))
    if scribbles is not None and not isinstance(scribbles, Sequence):
        raise TypeError(f"scribbles is a {type(scribbles).__name__}: pass a folder, or a sequence, one for each image")
    return train_on(
        sources,
        config,
        scribbles=scribbles,
        channel_axis=channel_axis,
        checkpoint=checkpoint,
        resume=resume,
        on_step=on_step,
    ).model


def _with_files(sources: Sequence[object], folder: Path) -> tuple[list[object], list[LabelFile | None]]:
    """Images without those that are scribbles of others, and the scribbles of each."""
    paths = [os.fspath(source) for source in sources if isinstance(source, (str, os.PathLike))]
    if len(paths) < len(sources):
        raise ValueError("scribbles in a folder go with images in files: pass one for each image instead")
    files, found = find_guidance(find_images(paths), {"scribbles": LabelFile(folder, DEFAULT_SCRIBBLE_NONE)})
    return [image.path for image in found.images], [files.of(image).get("scribbles") for image in found.images]


def usable(config: TrainingConfig) -> TrainingConfig:
    """With device and precision as they are here, and the hash of the network that features come from.

    Raises:
        ValueError: there is no such device, or no such network.
        OSError: its file cannot be read.
    """
    device = present_device(config.device)
    changed: dict[str, object] = {"device": str(device), "precision": present_precision(config.precision, device)}
    if config.features is not None:
        # That of other weights would carry on from no checkpoint of these.
        sha256 = map_source(config.features).facts["sha256"]
        changed["features"] = config.features.model_copy(update={"sha256": sha256})
    return config.model_copy(update=changed)


def train_on(
    sources: Sequence[object],
    config: TrainingConfig,
    *,
    scribbles: Sequence[object] | None = None,
    channel_axis: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_step: OnTrainingStep | None = None,
    on_failure: OnFailure | None = None,
    on_phase: Callable[[str], None] | None = None,
) -> Training:
    """``train`` with everything that there is to say about it.

    Args:
        sources: paths of files, PIL images or arrays.
        config: as ``usable`` gives it.
        scribbles: for each source, what ``Segmenter.segment`` takes as such, or None; None: there are none.
        channel_axis: see ``train``, as for the three that follow.
        checkpoint: a file.
        resume: goes on from it.
        on_step: called after each step.
        on_failure: is told, in a line, of each image that cannot be used, and the others are trained on; None: the
            first of them raises.
        on_phase: is told what comes after the last step.

    Raises:
        ValueError, TypeError, OSError: as ``train`` does.
    """
    began = time.perf_counter()
    images = ImageSet(sources, on_failure, channel_axis=channel_axis)
    bands = _bands(images)
    if scribbles is not None:
        images.strokes = read_strokes(images, scribbles, config.n_labels)
    features = None if config.features is None else _features(config.features, images, bands)
    progress = begin(config, bands, features)
    path = None if checkpoint is None else Path(checkpoint)
    identity = "" if path is None else fingerprint([*sources, *(scribbles or ())])
    if path is not None and resume and path.exists():
        load_checkpoint(path, progress, config, identity)
    carried_on = progress.seconds
    trained_on, held_out = _split(images, config)
    for_statistics = trained_on[:_IMAGES_FOR_STATISTICS]
    reserved = 0.0
    if config.time_budget is not None:
        reserved = _FINISHING_MARGIN * _finishing_seconds(progress.network, images, for_statistics)
        progress.seconds += time.perf_counter() - began
    saved = [time.perf_counter()]

    def save() -> None:
        # On a GPU steps are read several at a time. After one whose loss is not finite there is nothing to carry on:
        # the checkpoint before it stays.
        if path is not None and all(math.isfinite(record["loss"]) for record in progress.history):
            save_checkpoint(path, progress, config, identity)
            saved[0] = time.perf_counter()

    def after_step(record: TrainingRecord) -> None:
        if time.perf_counter() - saved[0] > _CHECKPOINT_SECONDS:
            save()
        if on_step is not None:
            on_step(record)

    try:
        with repeatable_convolutions(float32=config.precision == "float32"):
            stopped = run(
                progress, images, trained_on, held_out, config, finishing_seconds=reserved, on_step=after_step
            )
    except (KeyboardInterrupt, SystemExit):
        if progress.history:
            save()
        raise
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise MemoryError(
                f"a step on {counted(config.batch_size, 'crop')} of {config.crop_size}x{config.crop_size} pixels "
                "does not fit "
                "into memory: choose a smaller batch_size, crop_size or width"
            ) from None
        raise
    if on_phase is not None:
        on_phase("statistics over whole images")
    with repeatable_convolutions(float32=True):
        network, areas = _finished(progress.network, images, for_statistics)
    seconds = carried_on + time.perf_counter() - began
    description = _description(network, areas, config, progress, stopped, len(images), seconds)
    return Training(TrainedModel(network, description), config, progress.history, progress.looks, stopped, seconds)


def _bands(images: ImageSet) -> int:
    """Of the first image that can be used."""
    for number in range(len(images)):
        if images.pixels(number) is not None:
            break
    if images.bands is None:
        raise ValueError("there is no image to train on")
    return images.bands


def _features(options: FeatureOptions, images: ImageSet, bands: int) -> FeaturePlanes:
    """The backbone, with a projection to the principal components of its maps of these images."""
    if bands not in (1, 3):
        raise ValueError(
            f"features are those of photos, grey or red, green and blue; the images have {bands} bands: leave "
            "features out"
        )
    # Evenly among all of them: those of one folder may be alike.
    step = max(1, len(images) // _IMAGES_FOR_PROJECTION)
    return FeaturePlanes.fitted_to(
        map_source(options),
        (batch_of(pixels) for pixels in _whole_images(images, range(0, len(images), step))),
    )


def _split(images: ImageSet, config: TrainingConfig) -> tuple[list[int], list[int]]:
    """Numbers of the images to train on, in random order, and of those that are held out: at least one each, of two.

    Images with strokes are the last to be held out.
    """
    count = len(images)
    order = np.random.default_rng((config.seed, OF_SPLIT)).permutation(count).tolist()
    order.sort(key=lambda number: number in images.strokes)
    held_out = 0 if config.held_out == 0 or count < 2 else min(count - 1, max(1, round(config.held_out * count)))
    return order[held_out:], order[:held_out]


def _whole_images(images: ImageSet, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
    return (pixels for number in numbers if (pixels := images.pixels(number)) is not None)


def _finishing_seconds(network: SegmentationNetwork, images: ImageSet, numbers: Sequence[int]) -> float:
    """About how long the statistics will take, by one image."""
    usable_number = next((number for number in numbers if images.pixels(number) is not None), None)
    if usable_number is None:
        return 0.0
    seconds = []
    network.eval()
    for _ in range(2):  # the first time is slower
        began = time.perf_counter()
        with torch.inference_mode():
            label_areas(network, lambda: _whole_images(images, [usable_number]), network.last_norm.num_features)
        seconds.append(time.perf_counter() - began)
    network.train()
    return min(seconds) * (network.options.depth + 2) * len(numbers)


def _finished(
    network: SegmentationNetwork, images: ImageSet, numbers: Sequence[int]
) -> tuple[SegmentationNetwork, NDArray[np.float64]]:
    """The network with exact statistics and without labels that no image has; and the share of each.

    For their order, see ``order_of_labels``.
    """

    def whole() -> Iterator[NDArray[Any]]:
        return _whole_images(images, numbers)

    with torch.inference_mode():
        recalibrate(network, whole)
        areas = label_areas(network, whole, network.last_norm.num_features)
    kept = order_of_labels(areas, images.strokes)
    return with_labels(network.cpu(), kept), areas[kept] / areas.sum()


def _backbone(network: SegmentationNetwork) -> BackboneDescription | None:
    if network.features is None:
        return None
    return described_source(network.features.backbone)


def _description(
    network: SegmentationNetwork,
    areas: NDArray[np.float64],
    config: TrainingConfig,
    progress: Progress,
    stopped: Stopped,
    images: int,
    seconds: float,
) -> ModelDescription:
    return ModelDescription(
        package_version=package_version(),
        created_with={"python": platform.python_version()} | {name: version(name) for name in ("torch", "numpy")},
        bands=network.bands,
        label_count=len(areas),
        palette=tuple((int(red), int(green), int(blue)) for red, green, blue in label_palette(len(areas))),
        label_areas=tuple(float(area) for area in areas),
        network=network.options,
        receptive_field=network.options.receptive_field,
        backbone=_backbone(network),
        training={
            **config.model_dump(mode="json"),
            # Not where its file was, and all else is in ``backbone``.
            "features": None if config.features is None else Path(config.features.source).name,
            "images": images,
            "steps_done": len(progress.history),
            "stopped": stopped,
            "seconds": round(seconds, 1),
            "held_out_loss": min((look.loss for look in progress.looks), default=None),
        },
    )
