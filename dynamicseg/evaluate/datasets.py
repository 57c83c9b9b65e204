"""Finding and reading ground truth, in the layout in which each data set is distributed.

| name | layout below the root | truth of an image |
| --- | --- | --- |
| ``bsds500`` | ``groundTruth/<split>/<stem>.mat``, ``images/<split>/<stem>.jpg`` | several annotators' segments |
| ``labels`` | ``<stem>.png`` or another lossless image, in subfolders too | classes or segments |
| ``voc2012`` | ``SegmentationClass/<stem>.png``, ``JPEGImages/<stem>.jpg`` and a list of stems | classes |
| ``coco-stuff`` | ``annotations/<split>/<stem>.png``, ``images/<split>/<stem>.jpg`` | classes |

The list of ``voc2012`` is ``ImageSets/Segmentation/<split>.txt``. There and in ``coco-stuff`` 255 stands for pixels
without a class. No image is needed to evaluate.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from dynamicseg._files import one_line, opened
from dynamicseg._words import did_you_mean
from dynamicseg.evaluate.label_files import find_label_maps, names
from dynamicseg.io import read_label_map

DatasetName: TypeAlias = Literal["bsds500", "labels", "voc2012", "coco-stuff"]
DATASETS: tuple[DatasetName, ...] = get_args(DatasetName)

# Where the folder that splits lie in is found below what the user may take for the root: the first that is there.
_BSDS_BASES = ("groundTruth", "data/groundTruth", "BSDS500/data/groundTruth", "BSR/BSDS500/data/groundTruth", ".")
_VOC_BASES = (".", "VOC2012", "VOCdevkit/VOC2012")
_COCO_BASES = ("annotations", ".")
_NOT_A_CLASS = 255


@dataclass(frozen=True)
class TruthItem:
    """One image of a data set.

    Attributes:
        stem: its name without suffix, relative, with forward slashes; predictions are found by it.
        path: the file of its truth.
        image: the photo; None where none was found.
    """

    stem: str
    path: Path
    image: Path | None


@dataclass(frozen=True)
class Dataset:
    """The ground truth of one split.

    Attributes:
        name: which data set.
        split: its name; None for ``labels``, and for a folder that was given itself.
        items: at least one, in the order of their stems.
        ignore_label: what stands for pixels without a class; None: nothing does.
    """

    name: DatasetName
    split: str | None
    items: tuple[TruthItem, ...]
    ignore_label: int | None

    @property
    def has_classes(self) -> bool:
        """Whether labels may mean the same in every image; the segments of BSDS500 are numbered in each anew."""
        return self.name != "bsds500"

    def annotators(self, item: TruthItem) -> list[NDArray[Any]]:
        """The maps of an image, integers ``[H, W]``, at least one: several in BSDS500.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged or holds something else; one line that starts with its path.
        """
        if self.name == "bsds500":
            return read_bsds_segmentations(item.path)
        return [read_label_map(item.path)]


def open_dataset(
    root: str | os.PathLike[str],
    dataset: DatasetName,
    *,
    split: str | None = None,
    ignore_label: int | None = None,
) -> Dataset:
    """Finds the truth of one split.

    Args:
        root: the folder of the data set, as in the table at the top of this file; for ``bsds500`` and ``coco-stuff``
            also the folder of one split, with the MAT or PNG files in it.
        dataset: which layout.
        split: ``train``, ``val`` or whatever the folder or list is named; None: the only one there is. For ``labels``
            a subfolder.
        ignore_label: None: 255 for ``voc2012`` and ``coco-stuff``, nothing for the others.

    Raises:
        ValueError: unknown data set; no such split, several to choose from, no files, or files that a list names are
            missing. One line.
        FileNotFoundError: the root is not there.
    """
    if dataset not in DATASETS:
        hint = did_you_mean(dataset, DATASETS)
        raise ValueError(f"data set {dataset!r}: choose {', '.join(DATASETS)}{hint}")
    folder = Path(root)
    if not folder.is_dir():
        raise FileNotFoundError(one_line(folder, "no such folder"))
    if dataset == "labels":
        items = _labels(folder, split)
        found = split
    elif dataset == "voc2012":
        items, found = _voc(folder, split)
    else:
        items, found = _folder_of_split(folder, dataset, split)
    if ignore_label is None and dataset in ("voc2012", "coco-stuff"):
        ignore_label = _NOT_A_CLASS
    return Dataset(dataset, found, tuple(sorted(items, key=lambda item: item.stem)), ignore_label)


def _labels(folder: Path, split: str | None) -> list[TruthItem]:
    if split is not None:
        folder = folder / split
        if not folder.is_dir():
            raise ValueError(one_line(folder.parent, f"has no subfolder {split!r}"))
    maps = find_label_maps(folder)
    return [TruthItem(stem, path, None) for stem, path in maps.items()]


# ---- BSDS500 and COCO-Stuff: a folder for each split -----------------------------------------------------------------


def _folder_of_split(root: Path, dataset: DatasetName, split: str | None) -> tuple[list[TruthItem], str | None]:
    bases, pattern = (_BSDS_BASES, "*.mat") if dataset == "bsds500" else (_COCO_BASES, "*.png")
    base = next(root / name for name in bases if (root / name).is_dir())
    if _visible(base, pattern):
        if split not in (None, base.resolve().name):
            raise ValueError(one_line(base, f"holds {pattern} itself, not a split {split!r}; name the root instead"))
        folder = base
    else:
        available = sorted(each.name for each in base.iterdir() if each.is_dir() and _visible(each, pattern))
        if not available:
            raise ValueError(one_line(root, f"holds no {dataset}: no {bases[0]}/<split>/{pattern} below it"))
        folder = base / _chosen(root, available, split)
    images = folder.resolve().parents[1] / "images" / folder.resolve().name
    items = [TruthItem(path.stem, path, _existing(images / f"{path.stem}.jpg")) for path in _visible(folder, pattern)]
    return items, folder.resolve().name


def _visible(folder: Path, pattern: str) -> list[Path]:
    return [path for path in sorted(folder.glob(pattern)) if not path.name.startswith(".")]


def _chosen(root: Path, available: Sequence[str], split: str | None) -> str:
    if split is None and len(available) == 1:
        return available[0]
    if split is None:
        raise ValueError(one_line(root, f"has the splits {', '.join(available)}; choose one of them"))
    if split not in available:
        raise ValueError(one_line(root, f"has no split {split!r}; it has {', '.join(available)}"))
    return split


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None


def read_bsds_segmentations(path: str | os.PathLike[str]) -> list[NDArray[Any]]:
    """The maps of all annotators in a MAT file of BSDS500, unsigned integers ``[H, W]`` each, in the file's order.

    Raises:
        OSError: the file cannot be read.
        ValueError: not a MAT file (version 4 to 7.2), damaged, or it holds no segmentations; one line.
    """
    from scipy.io import loadmat

    path = Path(path)
    wrong = ValueError(one_line(path, "holds no BSDS500 ground truth: want groundTruth{k}.Segmentation, maps [H, W]"))
    with opened(path) as file:
        contents = loadmat(file, variable_names=["groundTruth"])
    cells = contents.get("groundTruth")
    if cells is None or cells.dtype != object or cells.size == 0:
        raise wrong
    maps = []
    for cell in cells.ravel():
        if getattr(cell, "dtype", None) is None or "Segmentation" not in (cell.dtype.names or ()) or cell.size != 1:
            raise wrong
        segmentation = cell["Segmentation"].item()
        if getattr(segmentation, "ndim", None) != 2 or segmentation.size == 0 or segmentation.dtype.kind not in "buif":
            raise wrong
        # MATLAB users write what they edited as doubles.
        if not np.array_equal(segmentation, np.rint(segmentation)):
            raise wrong
        maps.append(segmentation.astype(np.int64) if segmentation.dtype.kind == "f" else segmentation)
    return maps


# ---- PASCAL VOC: a list for each split -------------------------------------------------------------------------------


def _voc(root: Path, split: str | None) -> tuple[list[TruthItem], str]:
    base = next((root / name for name in _VOC_BASES if (root / name / "SegmentationClass").is_dir()), None)
    if base is None:
        raise ValueError(one_line(root, "holds no voc2012: no SegmentationClass below it"))
    lists = base / "ImageSets" / "Segmentation"
    available = sorted(path.stem for path in _visible(lists, "*.txt"))
    if not available:
        raise ValueError(one_line(lists, "holds no list of a split, <split>.txt"))
    split = _chosen(base, available, split)
    chosen = lists / f"{split}.txt"
    with opened(chosen) as file:
        stems = _without_repetition(file.read().decode("utf-8").split())
    items = []
    for stem in stems:
        truth, image = base / "SegmentationClass" / f"{stem}.png", base / "JPEGImages" / f"{stem}.jpg"
        items.append(TruthItem(stem, truth, _existing(image)))
    missing = [item.stem for item in items if not item.path.is_file()]
    if missing:
        raise ValueError(one_line(chosen, f"names images that are not in SegmentationClass: {names(missing)}"))
    if not items:
        raise ValueError(one_line(chosen, "names no image"))
    return items, split


def _without_repetition(stems: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(stems))
