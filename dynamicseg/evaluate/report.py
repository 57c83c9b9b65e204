"""Scoring a folder of predictions against a data set: from the two folders to the report.

What a report holds, all of it JSON-able:

- ``schema_version``, ``predictions``, ``truth``, ``dataset``, ``split``, ``ignore_label``, ``resize``;
- ``images``: how many were scored; ``skipped``: stems of those without any pixel that counts;
- ``scores``: by protocol, the numbers that ``result`` of its class describes: ``SegmentIoU``, ``Regions``,
  ``Boundaries``, ``Labelled``;
- ``per_image``: one entry for each scored image: ``stem``, and by protocol its own scores, where it has some.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, get_args

from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from dynamicseg._files import one_line
from dynamicseg._words import counted, did_you_mean
from dynamicseg.evaluate.boundaries import Boundaries
from dynamicseg.evaluate.datasets import Dataset, DatasetName, TruthItem, open_dataset
from dynamicseg.evaluate.label_files import names, pair_by_stem, resize_nearest
from dynamicseg.evaluate.labelled import Labelled
from dynamicseg.evaluate.overlaps import ImagePair, size_of
from dynamicseg.evaluate.regions import Regions
from dynamicseg.evaluate.segment_iou import SegmentIoU
from dynamicseg.io import read_label_map

SCHEMA_VERSION = 1

ProtocolName: TypeAlias = Literal["segment-iou", "regions", "boundaries", "hungarian", "majority"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)
OF_CLASSES: tuple[ProtocolName, ...] = ("hungarian", "majority")
ALL = "all"

Progress: TypeAlias = Callable[[int, int], None]


class Scorer(Protocol):
    """What adds up the scores of one protocol."""

    def add(self, image: ImagePair) -> dict[str, float]:
        """Counts an image in and returns its own scores; none where there are only scores of all images."""

    def result(self) -> dict[str, Any]:
        """The scores of all images so far, of which there is at least one."""


_SCORERS: dict[ProtocolName, Callable[[], Scorer]] = {
    "segment-iou": SegmentIoU,
    "regions": Regions,
    "boundaries": Boundaries,
    "hungarian": lambda: Labelled("hungarian"),
    "majority": lambda: Labelled("majority"),
}


class Scores:
    """Adds up the scores of several protocols.

    Args:
        protocols: any of ``PROTOCOLS``.
    """

    def __init__(self, protocols: Iterable[ProtocolName]) -> None:
        self._scorers = {name: _SCORERS[name]() for name in protocols}
        self._rows: list[dict[str, Any]] = []

    def add(self, stem: str, image: ImagePair) -> None:
        """Counts an image in."""
        of_protocols = {name: scorer.add(image) for name, scorer in self._scorers.items()}
        self._rows.append({"stem": stem, **{name: scores for name, scores in of_protocols.items() if scores}})

    def result(self) -> dict[str, Any]:
        """``images``, how many there were; ``scores`` by protocol; ``per_image``, the ``stem`` of each and its scores.

        Raises:
            ValueError: no image was counted in.
        """
        if not self._rows:
            raise ValueError("no image has a pixel that counts: is the ignored label right?")
        scores = {name: scorer.result() for name, scorer in self._scorers.items()}
        return {"images": len(self._rows), "scores": scores, "per_image": self._rows}


def evaluate(
    predictions: str | os.PathLike[str],
    truth: str | os.PathLike[str],
    dataset: DatasetName,
    protocol: str | Sequence[str] = ALL,
    *,
    split: str | None = None,
    ignore_label: int | None = None,
    resize: Literal["nearest"] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Scores the label maps in a folder.

    Args:
        predictions: a folder of what ``segment`` or ``predict`` writes, or of plain label images; see
            ``label_files.find_label_maps``.
        truth: folder of the data set; see ``datasets.open_dataset``.
        dataset: its layout, one of ``DATASETS``.
        protocol: one of ``PROTOCOLS``, several, or ``"all"`` that fit: ``hungarian`` and ``majority`` compare classes,
            which BSDS500 does not have.
        split: which part of the data set; None: the only one there is.
        ignore_label: pixels with this label in the truth do not count; None: 255 for ``voc2012`` and ``coco-stuff``,
            nothing for the others. A number that does not occur, such as -1, turns it off.
        resize: ``"nearest"`` brings a prediction to the size of its truth; None: another size is an error.
        progress: told how many images are done, and of how many.

    Returns:
        The report: ``images``, ``scores`` and ``per_image`` as in ``Scores.result``; ``skipped``, the stems of images
        without any pixel that counts; and the arguments.

    Raises:
        ValueError: an argument is out of its range; files are missing, too many, of the wrong size or unreadable: one
            line that names all of them, or the first ones.
        OSError: a folder is not there.
    """
    if resize not in (None, "nearest"):
        raise ValueError(f"resize {resize!r}: choose nearest, or leave it out")
    opened = open_dataset(truth, dataset, split=split, ignore_label=ignore_label)
    scores = Scores(_protocols(protocol, opened))
    paths = pair_by_stem(predictions, [item.stem for item in opened.items], split=opened.split)
    skipped, wrong_size, unreadable = [], [], []
    for number, item in enumerate(opened.items, 1):
        try:
            prediction, annotators = read_label_map(paths[item.stem]), opened.annotators(item)
        except (OSError, ValueError) as error:
            unreadable.append(str(error))
            continue
        size = _common_shape(item, annotators)
        if prediction.shape != size and resize is None:
            wrong_size.append(f"{item.stem} is {size_of(prediction)}, its truth {size_of(annotators[0])}")
        elif not wrong_size and not unreadable:  # otherwise there will be no scores, only the list of what is wrong
            image = ImagePair(resize_nearest(prediction, size), annotators, ignore_label=opened.ignore_label)
            if image.is_labelled:
                scores.add(item.stem, image)
            else:
                skipped.append(item.stem)
        if progress is not None:
            progress(number, len(opened.items))
    _refuse(predictions, wrong_size, unreadable)
    return {
        "schema_version": SCHEMA_VERSION,
        "predictions": str(Path(predictions)),
        "truth": str(Path(truth)),
        "dataset": opened.name,
        "split": opened.split,
        "ignore_label": opened.ignore_label,
        "resize": resize,
        "skipped": skipped,
        **scores.result(),
    }


def _protocols(asked: str | Sequence[str], dataset: Dataset) -> list[ProtocolName]:
    fitting: list[ProtocolName] = [name for name in PROTOCOLS if dataset.has_classes or name not in OF_CLASSES]
    asked = [asked] if isinstance(asked, str) else list(asked)
    for name in asked:
        if name not in (*PROTOCOLS, ALL):
            choices = f"choose {', '.join(PROTOCOLS)} or {ALL}"
            raise ValueError(f"protocol {name!r}: {choices}{did_you_mean(name, (*PROTOCOLS, ALL))}")
        if name not in (*fitting, ALL):
            text = f"compares classes, but the segments of {dataset.name} have none: choose {', '.join(fitting)}"
            raise ValueError(f"protocol {name!r}: {text}")
    if not asked:
        raise ValueError(f"no protocol: choose {', '.join(PROTOCOLS)} or all")
    return fitting if ALL in asked else [name for name in fitting if name in asked]


def _common_shape(item: TruthItem, annotators: Sequence[NDArray[Any]]) -> tuple[int, int]:
    shapes = {labels.shape for labels in annotators}
    if len(shapes) > 1:
        raise ValueError(one_line(item.path, "holds maps of different sizes"))
    height, width = annotators[0].shape
    return height, width


def _refuse(predictions: str | os.PathLike[str], wrong_size: list[str], unreadable: list[str]) -> None:
    problems = []
    if wrong_size:
        problems.append(f"wrong size (resize nearest makes it fit): {names(wrong_size)}")
    if unreadable:
        problems.append(f"unreadable: {names(unreadable)}")
    if problems:
        raise ValueError(one_line(predictions, "; ".join(problems)))


# ---- what the user sees ----------------------------------------------------------------------------------------------

_ROWS: dict[ProtocolName, dict[str, str]] = {
    "segment-iou": {"all": "All", "fine": "Fine", "coarse": "Coarse"},
    "regions": {
        "covering": "covering",
        "covering_of_labels": "covering, of labels as they are",
        "rand_index": "probabilistic Rand index",
        "rand_index_of_labels": "probabilistic Rand index, of labels",
        "variation_of_information": "variation of information, bits (lower is better)",
        "variation_of_information_of_labels": "variation of information, of labels",
    },
    "boundaries": {"f": "F", "precision": "precision", "recall": "recall"},
    "hungarian": {"miou": "mean IoU", "pixel_accuracy": "pixel accuracy"},
    "majority": {"miou": "mean IoU", "pixel_accuracy": "pixel accuracy"},
}


def table(report: dict[str, Any]) -> Table:
    """The scores of a report for a terminal of 100 columns."""
    of_split = f" {report['split']}" if report["split"] else ""
    skipped = f", {len(report['skipped'])} without labels left out" if report["skipped"] else ""
    title = f"{report['dataset']}{of_split}: {counted(report['images'], 'image')}{skipped}"
    found = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    found.add_column("protocol", no_wrap=True)
    found.add_column("score")
    found.add_column("value", justify="right", no_wrap=True)
    for protocol in PROTOCOLS:
        rows = _ROWS[protocol] if protocol in report["scores"] else {}
        for key, words in rows.items():
            first, last = key == next(iter(rows)), key == next(reversed(rows))
            value = f"{report['scores'][protocol][key]:.3f}"
            found.add_row(protocol if first else "", words, value, end_section=last)
    return found
