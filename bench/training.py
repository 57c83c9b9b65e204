"""``dynamicseg bench train``: one model for a set of images against what one would use in its place.

Each method makes a label map of each test image, all with the same number of labels, and is scored with ``hungarian``
and ``majority`` over all of them, see ``dynamicseg.evaluate.labelled``. Methods are named ``NAME`` or
``NAME:OPTION=VALUE:...``:

- ``train``: one network for the training images; options as of ``dynamicseg.train``;
- ``kmeans``: k-means on the colours of pixels of all training images: one model, too;
- ``segment``: ``dynamicseg.segment`` with just so many labels on each test image by itself; options as of
  ``Segmenter``. Label 0 is the largest region of each image, and so on;
- ``segment-kmeans``: the regions of ``segment``, as many as it finds, each with the label that ``kmeans`` gives its
  mean colour: regions of single images, and labels that mean the same in all of them.

What a report holds, all of it JSON-able: ``schema_version``, ``benchmark`` (``"train"``), ``environment``,
``settings``, and ``methods``: one entry for each method and seed with ``method``, ``seed``, ``train_seconds``,
``seconds`` (an image, median, reading and writing included), ``scores`` as of ``dynamicseg.evaluate``, and of ``train``
the ``description`` of the model.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from dynamicseg._words import counted
from dynamicseg.evaluate import evaluate
from dynamicseg.evaluate.methods import name_and_options
from dynamicseg.inputs import find_images
from dynamicseg.io import read_image, write_label_map

SCHEMA_VERSION = 1
METHODS = ("train", "kmeans", "segment", "segment-kmeans")
PROTOCOLS = ("hungarian", "majority")

_SAMPLE = 200_000  # pixels that k-means is fitted to
_ITERATIONS = 30

Progress: TypeAlias = Callable[[str], None]
Predict: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]
Fitted: TypeAlias = tuple[Predict, dict[str, Any]]
"""From an image ``[H, W, C]`` to its labels ``[H, W]``, and what the report has to say of it."""


def run(
    train: str | os.PathLike[str],
    test: str | os.PathLike[str],
    truth: str | os.PathLike[str],
    *,
    n_labels: int,
    ignore_label: int | None = None,
    methods: Sequence[str] = METHODS,
    seeds: int = 1,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fits each method to the training images, and scores it on the test images.

    Args:
        train: folder of images to train on.
        test: folder of images to score on.
        truth: folder of label images, named as the test images, see ``evaluate.open_dataset`` (``labels``).
        n_labels: of every method, >= 1.
        ignore_label: label in ``truth`` that does not count.
        methods: as described at the top of this file.
        seeds: each method runs with 0 to ``seeds - 1``, >= 1.
        output: folder to keep label maps and models in, a folder for each method; None keeps nothing.
        progress: told what is being done, in a few words.

    Returns:
        The report, as described at the top of this file.

    Raises:
        ValueError: an argument or an option of a method is wrong, or there are no images.
        OSError: a folder is not there, or cannot be written to.
    """
    for argument, count in (("n_labels", n_labels), ("seeds", seeds)):
        if count < 1:
            raise ValueError(f"{argument} is {count}: pass at least 1")
    tell = progress or (lambda _: None)
    chosen = [(text, *name_and_options(text, METHODS)) for text in methods]
    train_paths, test_paths = _images(train), _images(test)
    entries = []
    with tempfile.TemporaryDirectory() as temporary:
        runs = list(itertools.product(chosen, range(seeds)))
        for number, ((text, name, options), seed) in enumerate(runs, 1):
            folder = Path(output or temporary) / f"{text.replace(':', '_')}_seed{seed}"
            tell(f"run {number} of {len(runs)}, {text}, seed {seed}: fitting")
            began = time.perf_counter()
            predict, said = _FITS[name](train_paths, n_labels, options, seed, folder)
            train_seconds = time.perf_counter() - began
            tell(f"run {number} of {len(runs)}, {text}, seed {seed}: labelling")
            seconds = [_label(path, predict, folder) for path in test_paths]
            scored = evaluate(folder, truth, "labels", PROTOCOLS, ignore_label=ignore_label)
            entry = {"method": text, "seed": seed, "train_seconds": train_seconds, "seconds": median(seconds)}
            entries.append({**entry, "scores": scored["scores"], **said})
    from dynamicseg.bench.environment import environment

    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "train",
        "environment": environment(),
        "settings": {
            "train_images": len(train_paths),
            "test_images": len(test_paths),
            "n_labels": n_labels,
            "ignore_label": ignore_label,
            "methods": list(methods),
            "seeds": seeds,
        },
        "methods": entries,
    }


def _images(folder: str | os.PathLike[str]) -> list[Path]:
    found = find_images([os.fspath(folder)])
    if found.problems:
        raise ValueError(found.problems[0])
    return [image.path for image in found.images]


def _label(path: Path, predict: Predict, folder: Path) -> float:
    """Writes the label map of an image; returns the seconds that took, from its file to the other."""
    began = time.perf_counter()
    write_label_map(folder / f"{path.stem}_labels.png", predict(read_image(path)))
    return time.perf_counter() - began


# ---- methods ---------------------------------------------------------------------------------------------------------


def _train(paths: Sequence[Path], n_labels: int, options: Mapping[str, Any], seed: int, folder: Path) -> Fitted:
    from dynamicseg.training.train import train

    model = train(paths, **{"n_labels": n_labels, "seed": seed, **options})
    model.save(folder / "model.safetensors")
    return model.predict_array, {"description": model.description.model_dump(mode="json")}


def _kmeans(paths: Sequence[Path], n_labels: int, options: Mapping[str, Any], seed: int, folder: Path) -> Fitted:
    from scipy.cluster.vq import vq

    _refuse("kmeans", options)
    centres = _colour_centres(paths, n_labels, seed)

    def predict(image: NDArray[Any]) -> NDArray[Any]:
        labels, _ = vq(_colours(image), centres)
        return np.asarray(labels).reshape(image.shape[:2])

    return predict, {}


def _segment(paths: Sequence[Path], n_labels: int, options: Mapping[str, Any], seed: int, folder: Path) -> Fitted:
    from dynamicseg.segmenter import Segmenter

    segmenter = Segmenter(**{"n_labels": n_labels, "seed": seed, **options})
    return lambda image: segmenter.segment(image).labels, {}


def _segment_kmeans(
    paths: Sequence[Path], n_labels: int, options: Mapping[str, Any], seed: int, folder: Path
) -> Fitted:
    from scipy.cluster.vq import vq

    from dynamicseg.segmenter import Segmenter

    segmenter = Segmenter(**{"seed": seed, **options})
    centres = _colour_centres(paths, n_labels, seed)

    def predict(image: NDArray[Any]) -> NDArray[Any]:
        regions = segmenter.segment(image).labels
        areas = np.bincount(regions.ravel())
        sums = [np.bincount(regions.ravel(), band) for band in _colours(image).T]
        labels, _ = vq(np.stack(sums, axis=1) / areas[:, None], centres)
        return np.asarray(labels)[regions]

    return predict, {}


_FITS: dict[str, Callable[[Sequence[Path], int, Mapping[str, Any], int, Path], Fitted]] = {
    "train": _train,
    "kmeans": _kmeans,
    "segment": _segment,
    "segment-kmeans": _segment_kmeans,
}


def _refuse(name: str, options: Mapping[str, Any]) -> None:
    if options:
        raise ValueError(f"method {name!r} takes no options, but {', '.join(options)} was given")


def _colours(image: NDArray[Any]) -> NDArray[np.float64]:
    """``[H * W, C]``."""
    return image.reshape(-1, image.shape[-1]).astype(np.float64)


def _colour_centres(paths: Sequence[Path], n_labels: int, seed: int) -> NDArray[np.float64]:
    """By k-means++ and Lloyd's iterations on a sample of the pixels of all images, as many of each."""
    from scipy.cluster.vq import kmeans2

    random = np.random.default_rng(seed)
    sample = []
    for path in paths:
        colours = _colours(read_image(path))
        sample.append(colours[random.integers(len(colours), size=max(1, _SAMPLE // len(paths)))])
    centres, _ = kmeans2(np.concatenate(sample), n_labels, iter=_ITERATIONS, minit="++", seed=seed)
    return np.asarray(centres)


# ---- on the screen ---------------------------------------------------------------------------------------------------


def table(report: dict[str, Any]) -> Group:
    """Scores and seconds of each method, the mean over seeds."""
    settings = report["settings"]
    shown = Table(box=SIMPLE_HEAD)
    shown.add_column("method")
    columns = ("majority mIoU", "hungarian mIoU", "majority accuracy", "hungarian accuracy", "training, s", "s/image")
    for name in columns:
        shown.add_column(name, justify="right")
    for method in dict.fromkeys(entry["method"] for entry in report["methods"]):
        entries = [entry for entry in report["methods"] if entry["method"] == method]

        def mean(of: Callable[[dict[str, Any]], float], entries: list[dict[str, Any]] = entries) -> float:
            return sum(of(entry) for entry in entries) / len(entries)

        shown.add_row(
            method,
            *(
                f"{mean(lambda entry, p=protocol, s=score: entry['scores'][p][s]):.3f}"  # type: ignore[misc]
                for score in ("miou", "pixel_accuracy")
                for protocol in ("majority", "hungarian")
            ),
            f"{mean(lambda entry: entry['train_seconds']):.0f}",
            f"{mean(lambda entry: entry['seconds']):.2f}",
        )
    title = (
        f"{counted(settings['n_labels'], 'label')}, trained on {counted(settings['train_images'], 'image')}, scored on "
        f"{settings['test_images']}, mean over {settings['seeds']} seeds"
    )
    return Group(title, shown)
