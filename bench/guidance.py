"""``dynamicseg bench guidance``: what scribbles and a guide do for the regions of annotated images.

| row | what is told of each image |
| --- | --- |
| ``none`` | nothing |
| ``scribbles`` | strokes in each segment of the annotator with the fewest, see ``strokes`` |
| ``felzenszwalb`` | as a guide, the regions of Felzenszwalb's method, as in ``bench quality`` |
| ``noise`` | as a guide, a random label for each pixel |
| ``blocks`` | as a guide, squares of 32 pixels, each with a random label |

``felzenszwalb-alone`` scores that method itself. The report is JSON-able: ``schema_version``, ``benchmark``
(``"guidance"``), ``environment``, ``settings``, ``images`` (stems) and ``rows``, with ``row``, ``scores`` of
``evaluate`` and ``seconds`` an image (median; null where they are left out).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from dynamicseg import io
from dynamicseg._files import one_line
from dynamicseg._words import did_you_mean
from dynamicseg.bench.strokes import drawn_strokes
from dynamicseg.evaluate import ImagePair, Scores, open_dataset
from dynamicseg.evaluate.methods import parse_method, prepare
from dynamicseg.segmenter import Segmenter

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCHEMA_VERSION = 1
ALONE = "felzenszwalb-alone"
ROWS = ("none", "scribbles", ALONE, "felzenszwalb", "noise", "blocks")

_BLOCK = 32
_RANDOM_LABELS = 20


def run(
    root: str | os.PathLike[str],
    *,
    split: str | None = "val",
    rows: Sequence[str] = ROWS,
    limit: int | None = None,
    every: int = 1,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Segments images of BSDS500 with each kind of guidance, and scores them.

    Args:
        root: its folder, with photos; see ``evaluate.open_dataset``.
        split: which part of it.
        rows: any of ``ROWS``.
        limit: how many images, >= 1; None: all.
        every: takes each so many-th image by name, >= 1; before ``limit`` counts.
        seed: of strokes, of random labels and of training.
        options: of ``Segmenter``.
        progress: told what is being done, in a few words.

    Raises:
        ValueError: an argument is out of its range, or a photo is missing.
        OSError: the data set is not there.
    """
    for argument, count in (("limit", limit), ("every", every)):
        if count is not None and count < 1:
            raise ValueError(f"{argument} is {count}: pass at least 1")
    for row in rows:
        if row not in ROWS:
            raise ValueError(f"row {row!r}: choose from {', '.join(ROWS)}{did_you_mean(row, ROWS)}")
    if not rows or len(set(rows)) < len(rows):
        raise ValueError(f"rows: name at least one of {', '.join(ROWS)}, and none twice")
    segmenter = Segmenter(**{"seed": seed, **(options or {})})
    dataset = open_dataset(root, "bsds500", split=split)
    items = dataset.items[::every][:limit]
    scores = {row: Scores(("segment-iou", "regions", "boundaries")) for row in rows}
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for number, item in enumerate(items, 1):
        if item.image is None:
            raise ValueError(one_line(root, f"holds no photo of {item.stem}"))
        image, annotators = io.read_image(item.image), dataset.annotators(item)
        for row in rows:
            if progress is not None:
                progress(f"image {number} of {len(items)}, {item.stem}: {row}")
            start = time.perf_counter()
            labels = _labels(row, segmenter, image, annotators, seed)
            seconds[row].append(time.perf_counter() - start)
            scores[row].add(item.stem, ImagePair(labels, annotators))
    from dynamicseg.bench.environment import environment

    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": "guidance",
        "environment": environment(),
        "settings": {
            "split": dataset.split,
            "limit": limit,
            "every": every,
            "seed": seed,
            "config": segmenter.config.model_dump(mode="json"),
        },
        "images": [item.stem for item in items],
        "rows": [
            {"row": row, "scores": scores[row].result()["scores"], "seconds": median(seconds[row])} for row in rows
        ],
    }


def _labels(
    row: str, segmenter: Segmenter, image: NDArray[Any], annotators: Sequence[NDArray[Any]], seed: int
) -> NDArray[np.int32]:
    if row == "none":
        return segmenter.segment(image).labels
    if row == "scribbles":
        counts = [len(np.unique(segments)) for segments in annotators]
        coarse = annotators[int(np.argmin(counts))]
        return segmenter.segment(image, scribbles=drawn_strokes(coarse, seed)).labels
    guide = _guide(row, image, seed)
    return guide.astype(np.int32) if row == ALONE else segmenter.segment(image, guide=guide).labels


def _guide(row: str, image: NDArray[Any], seed: int) -> NDArray[Any]:
    height, width = image.shape[:2]
    random = np.random.default_rng(seed)
    if row == "noise":
        return random.integers(0, _RANDOM_LABELS, (height, width))
    if row == "blocks":
        blocks = random.integers(0, _RANDOM_LABELS, (-(-height // _BLOCK), -(-width // _BLOCK)))
        return blocks.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)[:height, :width]
    segment, _ = prepare(parse_method("felzenszwalb"), seed)
    return segment(image)


_COLUMNS = {
    "All": ("segment-iou", "all"),
    "Fine": ("segment-iou", "fine"),
    "Coarse": ("segment-iou", "coarse"),
    "covering": ("regions", "covering"),
    "F": ("boundaries", "f"),
}


def table(report: dict[str, Any]) -> Group:
    """The report for a terminal: a row for each kind of guidance."""
    head = f"bsds500 {report['settings']['split'] or ''}: {len(report['images'])} images"
    found = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    found.add_column("told")
    for column in ("s/image", *_COLUMNS):
        found.add_column(column, justify="right")
    for entry in report["rows"]:
        scores = [f"{entry['scores'][protocol][name]:.3f}" for protocol, name in _COLUMNS.values()]
        seconds = "" if entry["seconds"] is None else f"{entry['seconds']:.2f}"
        found.add_row(entry["row"], seconds, *scores)
    foot = (
        "All, Fine, Coarse: per-segment IoU; scribbles are drawn in the segments of Coarse. covering: of the truth. "
        "F: of boundaries."
    )
    return Group(head, found, foot)
