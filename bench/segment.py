"""``dynamicseg bench segment``: what a user waits for, from image file to written results, phase by phase.

The work on an image is that of ``dynamicseg segment``: on a GPU its pipeline, with processes beside it. Where this
process trains (on a GPU, or ``jobs`` 1), one image is segmented beforehand, not measured: it loads and prepares what
later ones find ready. Other processes start within the measured time, as they do for a user.

What a report holds, all of it JSON-able:

- ``schema_version``, ``benchmark`` (``"segment"``), ``environment``, ``settings``;
- ``images``: one entry for each: ``path``, ``size`` (height, width), ``n_labels``, ``steps``, ``seconds`` by phase
  (``read``, ``group``, ``train``, ``regions``, ``save``, ``total``); of images that a GPU trains on side by side, each
  has an equal share of these seconds;
- ``phases``: by phase the ``median``, ``q20``, ``q80`` and ``sum`` of these seconds;
- ``seconds``: from the first image to the last, all jobs together; ``images_per_second``;
- ``warm_up_seconds``: of the image beforehand; None where there was none;
- ``peak_memory_bytes``: resident, of the largest process; ``peak_gpu_memory_bytes``: held by PyTorch; None on the CPU;
- ``scores``: with a data set, ``all``, ``fine``, ``coarse`` of ``segment-iou``, of the label maps that were written.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import skimage
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from dynamicseg import io
from dynamicseg._files import one_line
from dynamicseg._words import counted
from dynamicseg.bench.environment import environment
from dynamicseg.evaluate import Dataset, DatasetName, ImagePair, Scores, TruthItem, open_dataset
from dynamicseg.inputs import InputImage, find_images
from dynamicseg.ops._runtime import why
from dynamicseg.segment_work import SegmentWork, default_jobs
from dynamicseg.segmentation import Segmentation, output_paths
from dynamicseg.segmenter import Segmenter
from dynamicseg.workers import Outcome, Show

SCHEMA_VERSION = 1

Progress: TypeAlias = Callable[[str], None]

PHASES = ("read", "group", "train", "regions", "save", "total")
_OF_AN_IMAGE = ("path", "size", "n_labels", "steps", "seconds")
_SHIPPED = ("astronaut", "chelsea", "coffee")
_FORMATS = ("png", "overlay", "json")
_KIB = 1024


def run(
    inputs: Sequence[str] = (),
    *,
    dataset: DatasetName | None = None,
    split: str | None = "val",
    limit: int | None = None,
    device: str = "cpu",
    jobs: int | None = None,
    preset: str = "fast",
    max_steps: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Segments images as ``dynamicseg segment`` does, and says what took how long.

    Args:
        inputs: files, folders, glob patterns; none: three photos that scikit-image ships. With ``dataset`` the one
            folder of the data set.
        dataset: its layout; the results are scored against its truth, which is not measured.
        split: which part of the data set.
        limit: how many images, >= 1; None: all.
        device: as in ``Segmenter``.
        jobs: as in ``dynamicseg segment``, >= 1; None: its default for the device.
        preset: as in ``Segmenter``.
        max_steps: as in ``Segmenter``; None: the preset's own.
        progress: told what is being done, in a few words.

    Returns:
        The report, as described at the top of this file.

    Raises:
        ValueError: an argument is out of its range, there is no such device, or an input is no image.
        OSError: the data set is not there.
        RuntimeError: an image failed; one line that names it.
    """
    for name, count in (("limit", limit), ("jobs", jobs)):
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}: pass at least 1")
    tell = progress or (lambda _: None)
    segmenter = Segmenter(preset=preset, device=device, max_steps=max_steps)  # type: ignore[arg-type]
    truth = None if dataset is None else _opened(inputs, dataset, split)
    images = (_inputs(inputs) if truth is None else _photos(truth))[:limit]
    on_gpu = segmenter.trains_on_gpu
    jobs = jobs or default_jobs(segmenter)
    threads = 1 if on_gpu else max(1, torch.get_num_threads() // jobs)
    with tempfile.TemporaryDirectory() as folder:
        work = TimedWork(Path(folder), _FORMATS, None, jobs, segmenter=segmenter)
        warm_up_seconds = None
        if on_gpu or jobs == 1:
            tell("an image beforehand")
            start = time.perf_counter()
            _result(work.do(images[0], lambda *_: None))
            warm_up_seconds = time.perf_counter() - start
        results: list[dict[str, Any]] = []
        start = time.perf_counter()
        for outcome in work.outcomes(images, lambda *_: None):
            results.append(_result(outcome))
            tell(f"image {len(results)} of {len(images)}")
        seconds = time.perf_counter() - start
        scores = None if truth is None else _scores(truth, images, Path(folder), tell)
    results.sort(key=lambda result: str(result["path"]))
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "segment",
        "environment": environment() | {"backend": why(torch.device(segmenter.config.device))},
        "settings": {
            "dataset": dataset,
            "split": None if truth is None else truth.split,
            "limit": limit,
            "jobs": jobs,
            "threads_of_a_job": threads,
            "formats": list(_FORMATS),
            "config": segmenter.config.model_dump(mode="json"),
        },
        "images": [
            {key: result[key] for key in ("path", "size", "n_labels", "steps", "seconds")} for result in results
        ],
        "phases": {phase: _summary([result["seconds"][phase] for result in results]) for phase in PHASES},
        "seconds": seconds,
        "images_per_second": len(results) / seconds,
        "warm_up_seconds": warm_up_seconds,
        "peak_memory_bytes": max(_peak_memory(), *(result["peak_memory_bytes"] for result in results)),
        "peak_gpu_memory_bytes": _peak_gpu_memory(segmenter) if on_gpu else None,
        "scores": scores,
    }


# ---- images ----------------------------------------------------------------------------------------------------------


def shipped_photos() -> list[str]:
    """The photos that scikit-image ships: nothing is downloaded.

    Raises:
        FileNotFoundError: this scikit-image has none.
    """
    paths = [Path(skimage.__file__).parent / "data" / f"{name}.png" for name in _SHIPPED]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(one_line(path, "is not shipped with this scikit-image: name images to segment"))
    return [str(path) for path in paths]


def _inputs(inputs: Sequence[str]) -> list[InputImage]:
    found = find_images(list(inputs) or shipped_photos())
    if found.problems or not found.images:
        raise ValueError(found.problems[0] if found.problems else f"{', '.join(inputs)}: no images")
    return list(found.images)


def _opened(inputs: Sequence[str], dataset: DatasetName, split: str | None) -> Dataset:
    if len(inputs) != 1:
        raise ValueError(f"data set {dataset}: name its folder, and nothing else")
    return open_dataset(inputs[0], dataset, split=split)


def _photos(truth: Dataset) -> list[InputImage]:
    images = [InputImage(item.image, item.stem) for item in truth.items if item.image is not None]
    if len(images) < len(truth.items):
        missing = next(item.stem for item in truth.items if item.image is None)
        raise ValueError(f"data set {truth.name}: holds no photo of {missing}")
    return images


# ---- measurement -----------------------------------------------------------------------------------------------------


class TimedWork(SegmentWork):
    """The work of ``dynamicseg segment``; its text is a JSON of what was measured."""

    def save(self, image: InputImage, segmentation: Segmentation, show: Show) -> str:
        """Returns the JSON."""
        start = time.perf_counter()
        segmentation.save(self.output, image.stem, self.formats)
        save = time.perf_counter() - start
        height, width = segmentation.labels.shape
        timings = segmentation.timings
        return json.dumps(
            {
                "path": str(image.path),
                "size": [height, width],
                "n_labels": segmentation.n_labels,
                "steps": len(segmentation.history),
                "seconds": {**timings, "save": save, "total": timings["total"] + save},
                "peak_memory_bytes": _peak_memory(),
            }
        )


def _peak_memory() -> int:
    """Of this process so far, resident, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIB


def _peak_gpu_memory(segmenter: Segmenter) -> int:
    return torch.cuda.max_memory_reserved(segmenter.config.device) if torch.cuda.is_initialized() else 0


def _result(outcome: Outcome) -> dict[str, Any]:
    if outcome.failed:
        raise RuntimeError(outcome.text)
    result: dict[str, Any] = json.loads(outcome.text)
    return result


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    quantiles = {"median": 0.5, "q20": 0.2, "q80": 0.8}
    return {name: float(np.quantile(seconds, share)) for name, share in quantiles.items()} | {"sum": sum(seconds)}


def _scores(truth: Dataset, images: Sequence[InputImage], folder: Path, tell: Progress) -> dict[str, float]:
    """Per-segment IoU of the label maps in ``folder``."""
    items: dict[str, TruthItem] = {item.stem: item for item in truth.items}
    scores = Scores(("segment-iou",))
    for number, image in enumerate(images, 1):
        tell(f"score {number} of {len(images)}")
        labels = io.read_label_map(output_paths(folder, image.stem, "png")["png"])
        pair = ImagePair(labels, truth.annotators(items[image.stem]), ignore_label=truth.ignore_label)
        if pair.is_labelled:
            scores.add(image.stem, pair)
    found = scores.result()["scores"]["segment-iou"]
    return {name: float(found[name]) for name in ("all", "fine", "coarse")}


# ---- what the user sees ----------------------------------------------------------------------------------------------


def table(report: dict[str, Any]) -> Group:
    """The report for a terminal of 100 columns: a row for each phase."""
    settings, machine = report["settings"], report["environment"]
    config = settings["config"]
    head = (
        f"{counted(len(report['images']), 'image')}, preset {config['preset']}, {config['precision']}, "
        f"{config['device']}, jobs "
        f"{settings['jobs']}; {machine['gpu'] or machine['cpu']}, {counted(machine['threads'], 'thread')}, "
        f"{machine['backend']}"
    )
    found = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    found.add_column("phase", no_wrap=True)
    for column in ("ms an image", "20-80 %", "all images, s"):
        found.add_column(column, justify="right", no_wrap=True)
    for phase, of_phase in report["phases"].items():
        median, q20, q80 = (f"{1e3 * of_phase[name]:.1f}" for name in ("median", "q20", "q80"))
        found.add_row(phase, median, f"{q20} - {q80}", f"{of_phase['sum']:.2f}")
    foot = f"{report['seconds']:.2f} s for all, {report['images_per_second']:.2f} images a second; peak memory "
    foot += f"{report['peak_memory_bytes'] / 1e9:.2f} GB"
    if report["peak_gpu_memory_bytes"] is not None:
        foot += f", on the GPU {report['peak_gpu_memory_bytes'] / 1e9:.2f} GB"
    if report["warm_up_seconds"] is not None:
        foot += f"; an image beforehand took {report['warm_up_seconds']:.2f} s"
    if report["scores"] is not None:
        foot += "; per-segment IoU " + ", ".join(f"{name} {score:.3f}" for name, score in report["scores"].items())
    return Group(head, found, foot + ".")
