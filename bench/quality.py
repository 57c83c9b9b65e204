"""``dynamicseg bench quality``: segmentation methods side by side on the same images, scores beside time.

Methods are named as in ``dynamicseg.evaluate.methods``, with options if need be, so that one can run several times in
one table: ``felzenszwalb:scale=200``. Those that start from a seed run with each; the others run once.

Time is what a user waits for: reading the photo, segmenting, writing the label map; without importing anything, and
without scoring. On each image the methods run one after the other, so that noise of the machine meets all alike.

With an output folder, ``METHOD/seedN/STEM_labels.png`` and ``STEM.json`` (settings, seconds) are kept: a later call
goes on from there, and runs again only what was made with other settings, versions, source code or processor.

What a report holds, all of it JSON-able:

- ``schema_version``, ``benchmark`` (``"quality"``), ``environment``, ``settings``, ``images`` (stems);
- ``methods``: one entry for each: ``method``, ``name``, ``options`` (all that are in force), ``seeds``; ``seconds`` an
  image (``median``, ``q20``, ``q80``, all seeds; None in a report that was kept for its scores alone); ``regions``:
  4-connected components an image, mean; ``scores``: by protocol and score of ``dynamicseg.evaluate`` the ``mean`` and
  ``std`` over seeds (sample standard deviation; None for one seed); ``runs``: one entry for each seed: ``seed``,
  ``seconds`` (by image), ``scores``, ``per_image``.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from dynamicseg import io
from dynamicseg._files import one_line, whole_file
from dynamicseg._words import counted
from dynamicseg.evaluate import Dataset, DatasetName, ImagePair, ProtocolName, Scores, TruthItem, open_dataset
from dynamicseg.evaluate.label_files import names
from dynamicseg.evaluate.methods import METHODS, SEEDED, Method, parse_method, prepare
from dynamicseg.numbering import relabel_by_area
from dynamicseg.segmentation import output_paths

SCHEMA_VERSION = 1

_SCORED: tuple[ProtocolName, ...] = ("segment-iou", "regions", "boundaries")
_TIMED_REGION = "reading the image file, segmenting, writing the label map"

Progress: TypeAlias = Callable[[str], None]


def run(
    root: str | os.PathLike[str],
    *,
    dataset: DatasetName = "bsds500",
    split: str | None = "val",
    methods: Sequence[str] = METHODS,
    limit: int | None = None,
    every: int = 1,
    seeds: int = 1,
    preset: str | None = None,
    options: Mapping[str, Any] | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Runs and scores methods on the images of a data set.

    Args:
        root: folder of the data set, with photos; see ``evaluate.open_dataset``.
        dataset: its layout; not ``labels``, which has no photos.
        split: which part of it; None: the only one there is.
        methods: each ``NAME`` or ``NAME:OPTION=VALUE:...``, see ``evaluate.methods``.
        limit: how many images, >= 1; None: all.
        every: takes each so many-th image by name, beginning with the first, >= 1; before ``limit`` counts.
        seeds: methods that start from a seed run with 0 to ``seeds - 1``, >= 1.
        preset: of ours, where the method does not name one; None: the default of ``Segmenter``.
        options: of ours besides, arguments of ``Segmenter``; those named with the method come first.
        output: folder to keep label maps in and to go on from; None keeps nothing.
        progress: told what is being done, in a few words.

    Returns:
        The report, as described at the top of this file.

    Raises:
        ValueError: an argument or an option of a method is out of its range, or photos are missing.
        OSError: the data set is not there, or the output folder cannot be written to.
        RuntimeError: a method failed on an image; one line that names both.
    """
    for argument, count in (("limit", limit), ("every", every), ("seeds", seeds)):
        if count is not None and count < 1:
            raise ValueError(f"{argument} is {count}: pass at least 1")
    ours = {**({} if preset is None else {"preset": preset}), **(options or {})}
    chosen = [parse_method(text, ours) for text in methods]
    if not chosen or len({method.text for method in chosen}) < len(chosen):
        raise ValueError(f"methods: name at least one of {', '.join(METHODS)}, and none twice")
    opened = open_dataset(root, dataset, split=split)
    items = opened.items[::every][:limit]
    without_photo = [item.stem for item in items if item.image is None]
    if without_photo:
        raise ValueError(one_line(root, f"holds no photo of {names(without_photo)}"))
    with tempfile.TemporaryDirectory() as temporary:
        runs = [
            _Run(method, seed, Path(output or temporary))
            for seed in range(seeds)
            for method in chosen
            if seed == 0 or method.name in SEEDED
        ]
        scored = _measure(runs, opened, items, progress or (lambda _: None))
    from dynamicseg.bench.environment import environment

    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "quality",
        "environment": environment(),
        "settings": {
            "dataset": dataset,
            "split": opened.split,
            "methods": [method.text for method in chosen],
            "limit": limit,
            "every": every,
            "seeds": seeds,
            "timed_region": _TIMED_REGION,
        },
        "images": scored,
        "methods": [_entry(method, [run for run in runs if run.method is method]) for method in chosen],
    }


# ---- measurement -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Run:
    """One method with one seed over all images."""

    method: Method
    seed: int
    output: Path
    scores: Scores = field(default_factory=lambda: Scores(_SCORED))
    seconds: list[float] = field(default_factory=list)
    regions: list[int] = field(default_factory=list)
    warm: bool = False

    def __post_init__(self) -> None:
        from dynamicseg.bench.environment import cpu_name

        self.segment, settings = prepare(self.method, self.seed)
        # As it comes back from JSON.
        self.settings = json.loads(json.dumps({**settings, "cpu": cpu_name()}))
        self.folder = self.output / re.sub(r"[^\w.=-]+", "_", self.method.text) / f"seed{self.seed}"

    def label_map(self, item: TruthItem) -> tuple[NDArray[np.int32], float]:
        """The labels of an image, and in how many seconds they were made, now or in an earlier call."""
        image = item.image
        assert image is not None
        made_from = {**self.settings, "image": f"{image.name}, {image.stat().st_size} bytes"}
        record = output_paths(self.folder, item.stem, "json")["json"]
        try:
            done = json.loads(record.read_text(encoding="utf-8"))
            if done["settings"] == made_from:
                return io.read_label_map(self.folder / done["labels"]), float(done["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not there, cut short or damaged: made now
        self._warm_up()
        # So that a new label map is never taken with an old record.
        record.unlink(missing_ok=True)
        start = time.perf_counter()
        labels = relabel_by_area(self.segment(io.read_image(image)))
        path = output_paths(self.folder, item.stem, "png", n_labels=int(labels.max()) + 1)["png"]
        io.write_label_map(path, labels)
        seconds = time.perf_counter() - start
        relative = path.relative_to(self.folder).as_posix()
        io.write_json(record, {"settings": made_from, "labels": relative, "seconds": seconds})
        return labels, seconds

    def _warm_up(self) -> None:
        """What is loaded with the first call is no time of an image."""
        if not self.warm:
            self.segment(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
            self.warm = True


def _measure(runs: Sequence[_Run], dataset: Dataset, items: Sequence[TruthItem], tell: Progress) -> list[str]:
    """Fills the runs; the stems of the images that were scored."""
    scored = []
    for number, item in enumerate(items, 1):
        annotators = dataset.annotators(item)
        for run in runs:
            seed = f", seed {run.seed}" if run.method.name in SEEDED else ""
            tell(f"image {number} of {len(items)}, {item.stem}: {run.method.text}{seed}")
            try:
                labels, seconds = run.label_map(item)
            except OSError:
                raise  # names its file
            except Exception as error:  # what others' code raises for options it does not like
                raise RuntimeError(one_line(run.method.text, f"failed on {item.image}: {error}")) from error
            pair = ImagePair(labels, annotators, ignore_label=dataset.ignore_label)
            if pair.is_labelled:
                run.scores.add(item.stem, pair)
                run.seconds.append(seconds)
                run.regions.append(len(pair.component_overlaps[0].regions))
        if pair.is_labelled:
            scored.append(item.stem)
    return scored


def _entry(method: Method, runs: Sequence[_Run]) -> dict[str, Any]:
    results = [run.scores.result() for run in runs]
    scores: dict[str, Any] = {}
    for protocol in _SCORED:
        by_name = {
            name: [result["scores"][protocol][name] for result in results] for name in results[0]["scores"][protocol]
        }
        scores[protocol] = {
            name: {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else None}
            for name, values in by_name.items()
        }
    seconds = np.array([run.seconds for run in runs])
    quantiles = {"median": 0.5, "q20": 0.2, "q80": 0.8}
    return {
        "method": method.text,
        "name": method.name,
        "options": runs[0].settings["options"],
        "seeds": [run.seed for run in runs],
        "seconds": {name: float(np.quantile(seconds, share)) for name, share in quantiles.items()},
        "regions": fmean(fmean(run.regions) for run in runs),
        "scores": scores,
        "runs": [
            {"seed": run.seed, "seconds": run.seconds, "scores": result["scores"], "per_image": result["per_image"]}
            for run, result in zip(runs, results, strict=True)
        ],
    }


# ---- what the user sees ----------------------------------------------------------------------------------------------

_COLUMNS = {
    "All": ("segment-iou", "all"),
    "Fine": ("segment-iou", "fine"),
    "Coarse": ("segment-iou", "coarse"),
    "covering": ("regions", "covering"),
    "PRI": ("regions", "rand_index"),
    "VI": ("regions", "variation_of_information"),
    "F": ("boundaries", "f"),
}


def table(report: dict[str, Any]) -> Group:
    """The report for a terminal of 100 columns: a row for each method, and what the columns mean."""
    settings, machine = report["settings"], report["environment"]
    head = (
        f"{settings['dataset']} {settings['split'] or ''}: {counted(len(report['images']), 'image')}; "
        f"{machine['cpu']}, "
        f"{counted(machine['threads'], 'thread')}"
    )
    found = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    found.add_column("method", overflow="fold")
    for column in ("s/image", "regions", *_COLUMNS):
        found.add_column(column, justify="right", no_wrap=True)
    for entry in report["methods"]:
        of_columns = [entry["scores"][protocol][name] for protocol, name in _COLUMNS.values()]
        means = [f"{score['mean']:.3f}" for score in of_columns]
        seconds = "" if entry["seconds"] is None else f"{entry['seconds']['median']:.2f}"
        found.add_row(entry["method"], seconds, f"{entry['regions']:.0f}", *means)
        if len(entry["seeds"]) > 1:
            spread = [f"±{score['std']:.3f}" for score in of_columns]
            found.add_row(f"  {len(entry['seeds'])} seeds", "", "", *spread)
    foot = (
        "s/image: median, from image file to label map file. regions: 4-connected components an image. All, Fine, "
        "Coarse: per-segment IoU. covering: of the truth. PRI: probabilistic Rand index. VI: variation of information, "
        "bits, lower is better. F: of boundaries, with a tolerance of 0.0075 of the diagonal. ±: standard deviation "
        "over seeds."
    )
    return Group(head, found, foot)


def merged(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several reports of one data set as one; methods that ran on fewer images than others say on how many.

    Raises:
        ValueError: data sets or parts of them differ.
    """
    parts = {(report["settings"]["dataset"], report["settings"]["split"]) for report in reports}
    if len(parts) != 1:
        raise ValueError(f"reports are of {len(parts)} data sets or parts of them: pass those of one")
    most = max(len(report["images"]) for report in reports)
    methods = [
        entry
        if len(report["images"]) == most
        else {**entry, "method": f"{entry['method']}, {counted(len(report['images']), 'image')}"}
        for report in reports
        for entry in report["methods"]
    ]
    fullest = next(report for report in reports if len(report["images"]) == most)
    return {**fullest, "methods": methods}


def plot(report: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Draws quality against time: per-segment IoU (All) and covering over seconds an image, one point a method.

    Args:
        report: of ``run``.
        path: the suffix decides the format: ``.png``, ``.svg``, ``.pdf``.

    Raises:
        RuntimeError: matplotlib is not installed.
        ValueError: matplotlib does not know the suffix.
        OSError: the folder cannot be written to.
    """
    try:
        figures = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise RuntimeError("a plot needs matplotlib, which is not installed: pip install 'dynamicseg[plot]'") from None
    figure = figures.Figure(figsize=(10, 5), layout="constrained")
    for axes, column in zip(figure.subplots(1, 2), ("All", "covering"), strict=True):
        protocol, name = _COLUMNS[column]
        lines = itertools.cycle(("--", ":", "-."))
        for entry, marker in zip(report["methods"], itertools.cycle("osD^vP*X")):
            score, seconds = entry["scores"][protocol][name], entry["seconds"]
            label = entry["method"] if column == "All" else None
            if seconds is None:
                label = label and f"{label}, time not measured"
                axes.axhline(score["mean"], linestyle=next(lines), color="grey", label=label)
            else:
                axes.errorbar(seconds["median"], score["mean"], yerr=score["std"], fmt=marker, capsize=3, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(0.1)
        axes.set_xlabel("seconds an image, median")
        axes.set_ylabel("per-segment IoU, All" if column == "All" else "segmentation covering")
        axes.grid(alpha=0.3)
    settings, machine = report["settings"], report["environment"]
    images, threads = counted(len(report["images"]), "image"), counted(machine["threads"], "thread")
    figure.suptitle(f"{settings['dataset']} {settings['split'] or ''}, {images}; {machine['cpu']}, {threads}")
    figure.legend(loc="outside lower center", ncols=2)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)
