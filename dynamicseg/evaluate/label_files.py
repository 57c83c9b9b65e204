"""Files that hold label maps: found in a folder, paired by stem, fitted in size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicseg._files import one_line
from dynamicseg._words import counted

# Formats that keep numbers; a JPEG does not.
LABEL_SUFFIXES = frozenset([".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".webp"])

_LABELS = "_labels"
_PICTURES = ("_overlay", "_boundaries")
_MOST_NAMES = 10


def names(stems: Sequence[str], most: int = _MOST_NAMES) -> str:
    """The stems with commas between them; of many the first ones, and how many more there are."""
    more = len(stems) - most
    return ", ".join(stems[:most]) + (f" and {more} more" if more > 0 else "")


def find_label_maps(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Every label map in a folder and its subfolders, by stem, in the order of the stems.

    A stem is the path below the folder, without suffix, with forward slashes. What ``segment`` and ``predict`` write is
    known: ``x_labels.png`` has the stem ``x``, before any ``x.png`` beside it, and beside it ``x_overlay.png`` and
    ``x_boundaries.png`` are pictures. Any other PNG, TIFF, BMP, GIF, PGM or WebP is taken for a label map. Hidden files
    and folders are left out.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: there is none in it, or two with the same stem; one line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(one_line(folder, "no such folder"))
    written: dict[str, list[Path]] = {}
    plain: dict[str, list[Path]] = {}
    for path in _files_below(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        of_segment = stem.endswith(_LABELS) and not stem.endswith(f"/{_LABELS}") and stem != _LABELS
        kind, stem = (written, stem.removesuffix(_LABELS)) if of_segment else (plain, stem)
        kind.setdefault(stem, []).append(path)
    pictures = {f"{stem}{ending}" for stem in written for ending in _PICTURES}
    found = {**{stem: paths for stem, paths in plain.items() if stem not in pictures}, **written}
    if not found:
        raise ValueError(one_line(folder, "holds no label maps: no STEM_labels.png or .tif, and no other label images"))
    twice = sorted(stem for stem, paths in found.items() if len(paths) > 1)
    if twice:
        raise ValueError(one_line(folder, f"holds more than one label map named {names(twice)}; remove the old ones"))
    return {stem: paths[0] for stem, paths in sorted(found.items())}


def _files_below(folder: Path) -> list[Path]:
    files = []
    for root, folders, file_names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in file_names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in LABEL_SUFFIXES:
                files.append(Path(root, name))
    return sorted(files)


def pair_by_stem(
    predictions: str | os.PathLike[str], stems: Iterable[str], *, split: str | None = None
) -> dict[str, Path]:
    """The predicted label map of each stem.

    Args:
        predictions: a folder, searched by ``find_label_maps``.
        stems: what is wanted.
        split: if the folder holds predictions below a folder of this name (``segment images -o out`` writes
            ``out/val/x_labels.png``) and none of the stems outside it, the stems are looked for there.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: as ``find_label_maps``; a stem has no prediction, or a prediction no stem: one line that names them.
    """
    wanted = list(stems)
    found = find_label_maps(predictions)
    if split is not None and not any(stem in found for stem in wanted):
        prefix = f"{split}/"
        below = {stem.removeprefix(prefix): path for stem, path in found.items() if stem.startswith(prefix)}
        found = below or found
    missing = [stem for stem in wanted if stem not in found]
    extra = sorted(set(found).difference(wanted))
    problems = []
    if missing:
        problems.append(f"no label map for {len(missing)} of {counted(len(wanted), 'image')}: {names(missing)}")
    if extra:
        problems.append(f"{len(extra)} label maps of images that the truth does not have: {names(extra)}")
    if problems:
        raise ValueError(one_line(predictions, "; ".join(problems)))
    return {stem: found[stem] for stem in wanted}


def resize_nearest(labels: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """The map ``[h, w]`` at another size ``[H, W]``: each pixel takes the label at the same relative position."""
    height, width = labels.shape
    rows = (2 * np.arange(shape[0]) + 1) * height // (2 * shape[0])
    columns = (2 * np.arange(shape[1]) + 1) * width // (2 * shape[1])
    return np.asarray(labels[rows[:, None], columns])
