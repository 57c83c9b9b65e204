"""What a user tells of an image beside its pixels: scribbles, a guide, a mask; read, checked, brought to one size."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg._files import one_line
from dynamicseg.io import read_label_map
from dynamicseg.numbering import relabel_by_area
from dynamicseg.partition import partition
from dynamicseg.resizing import nearest, resized_labels
from dynamicseg.terms import DEFAULT_SCRIBBLE_NONE, NO_LABEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HIGHEST_LABEL = 65535  # so that 16 bits hold any label that is drawn


@dataclass(frozen=True)
class LabelFile:
    """A label image, and the number in it that stands for none; None: every number is a label."""

    path: Path
    none: int | None = None

    def described(self) -> dict[str, Any]:
        """What identifies the file by the system alone, see ``segmentation.describe_input``."""
        status = os.stat(self.path)
        return {
            "path": os.path.abspath(self.path),
            "bytes": status.st_size,
            "modified_ns": status.st_mtime_ns,
            "none": self.none,
        }


@dataclass(frozen=True, eq=False)
class Guidance:
    """What is told of one image, checked.

    Attributes:
        drawn: the labels drawn, by the user's numbers, ascending; empty without scribbles.
        scribbles: ``[H, W]`` int64, positions in ``drawn``, -1 where nothing was drawn; None without scribbles.
        guide: ``[h, w]`` int64 of any size, numbers from 0 without gaps, the largest region first, -1 for any label;
            None without a guide.
        mask: ``[H, W]`` bool, true where there is data; None where that is everywhere.
        files: of each that came from a file, what ``LabelFile.described`` tells.
    """

    drawn: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    scribbles: NDArray[np.int64] | None = None
    guide: NDArray[np.int64] | None = None
    mask: NDArray[np.bool_] | None = None
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def in_loss(self) -> bool:
        """Whether the loss is told anything."""
        return any(part is not None for part in (self.scribbles, self.guide, self.mask))

    def at(self, size: tuple[int, int]) -> Guidance:
        """As the loss takes it, at the size at which an image is trained on, at most its own.

        No stroke is lost, and a pixel is data if one of those that it stands for is.
        """
        return Guidance(
            self.drawn,
            None if self.scribbles is None else reduced_scribbles(self.scribbles, size),
            None if self.guide is None else resized_labels(self.guide, size),
            None if self.mask is None else _reduced_mask(self.mask, size),
            self.files,
        )

    def guide_channels(self, channels: int) -> NDArray[np.int64] | None:
        """The guide as the loss takes it, of a network with so many channels: after those of the labels drawn.

        Where its regions are more than are left, the smallest have none.
        """
        if self.guide is None:
            return None
        drawn = len(self.drawn)
        return np.where((self.guide < 0) | (self.guide >= channels - drawn), NO_LABEL, self.guide + drawn)


NO_GUIDANCE = Guidance()


def read_guidance(
    shape: tuple[int, int],
    *,
    scribbles: object = None,
    guide: object = None,
    mask: object = None,
    channels: int,
    drawn_everywhere: bool = False,
) -> Guidance:
    """What is told of an image of ``shape`` (height, width); for the arguments, see ``Segmenter.segment``.

    ``drawn_everywhere``: scribbles may leave no pixel without a label.

    Raises:
        TypeError, ValueError: one of them is no label map, of another size, or has labels out of range, no stroke, too
            many, or nothing else; in one line that starts with its file.
        OSError: a file cannot be read.
    """
    parts = {"scribbles": scribbles, "guide": guide, "mask": mask}
    files = {name: _as_file(name, part) for name, part in parts.items() if _is_file(part)}
    of_mask = None if mask is None else _as_mask(files.get("mask", mask), shape)
    drawn, strokes = np.empty(0, np.int64), None
    if scribbles is not None:
        drawn, strokes = _as_scribbles(
            files.get("scribbles", scribbles), shape, of_mask, channels, everywhere=drawn_everywhere
        )
    return Guidance(
        drawn,
        strokes,
        None if guide is None else _as_guide(files.get("guide", guide)),
        of_mask,
        {name: file.described() for name, file in files.items()},
    )


def filled(values: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[Any]:
    """``[H, W, C]`` with the nearest valid pixel wherever there is no data, so that no edge begins there."""
    if mask is None or mask.all():
        return values
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    result: NDArray[Any] = values[rows, columns]
    return result


# ---- scribbles, guide, mask, each with what it wants -----------------------------------------------------------------


def _as_scribbles(
    value: object, shape: tuple[int, int], mask: NDArray[np.bool_] | None, channels: int, *, everywhere: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    subject, numbers, none = _label_map("scribbles", value, DEFAULT_SCRIBBLE_NONE)
    _check_size(subject, numbers, shape, "draw scribbles at the size of the image")
    has_stroke = numbers != (NO_LABEL if none is None else none)
    nothing = "-1" if none is None else f"{none}"
    if not has_stroke.any():
        raise ValueError(
            one_line(subject, f"has no stroke: every pixel is {nothing}, which stands for none; draw, or leave it out")
        )
    lowest, highest = int(numbers[has_stroke].min()), int(numbers[has_stroke].max())
    if lowest < 0 or highest > _HIGHEST_LABEL:
        raise ValueError(
            one_line(
                subject,
                f"has labels from {lowest} to {highest}; want 0 to {_HIGHEST_LABEL}, and {nothing} for none",
            )
        )
    if mask is not None:
        has_stroke &= mask
        if not has_stroke.any():
            raise ValueError(one_line(subject, "has strokes only where the mask says that there is no data"))
    found = partition(numbers[has_stroke])
    if len(found) > channels:
        raise ValueError(
            one_line(
                subject,
                f"has {len(found)} labels, more than the {channels} that the network has; if the background is not "
                f"{nothing}, say with --scribble-none what it is",
            )
        )
    if not everywhere and has_stroke.sum() == (has_stroke.size if mask is None else mask.sum()):
        what_to_do = (
            "give -1 to pixels where nothing was drawn"
            if none is None
            else f"if the background is not {nothing}, say with --scribble-none what it is"
        )
        text = f"has a label at every pixel, and nothing is left to segment; {what_to_do}"
        raise ValueError(one_line(subject, text))
    strokes = np.full(shape, NO_LABEL, np.int64)
    strokes[has_stroke] = found.part
    return found.numbers, strokes


def _as_guide(value: object) -> NDArray[np.int64]:
    subject, numbers, none = _label_map("guide", value, None)
    known = numbers >= 0 if none is None else (numbers >= 0) & (numbers != none)
    if not known.any():
        raise ValueError(one_line(subject, "has no label: every pixel is negative or the number that is ignored"))
    guide = np.full(numbers.shape, NO_LABEL, np.int64)
    guide[known] = relabel_by_area(numbers[known])
    return guide


def _as_mask(value: object, shape: tuple[int, int]) -> NDArray[np.bool_]:
    subject, numbers, _ = _label_map("mask", value, None)
    _check_size(subject, numbers, shape, "want one of the size of the image")
    mask: NDArray[np.bool_] = numbers != 0
    if np.count_nonzero(mask) < 2:
        raise ValueError(
            one_line(subject, f"leaves {np.count_nonzero(mask)} pixels of the image; 0 is for pixels that are not data")
        )
    return mask


def _check_size(
    subject: str | os.PathLike[str], numbers: NDArray[Any], shape: tuple[int, int], what_to_do: str
) -> None:
    if numbers.shape != shape:
        (height, width), (wanted_height, wanted_width) = numbers.shape, shape
        text = f"is {width}x{height} pixels, the image {wanted_width}x{wanted_height}: {what_to_do}"
        raise ValueError(one_line(subject, text))


# ---- label maps of any origin ----------------------------------------------------------------------------------------


def _is_file(value: object) -> bool:
    return isinstance(value, (str, os.PathLike, LabelFile))


def _as_file(name: str, value: object) -> LabelFile:
    if isinstance(value, LabelFile):
        return value
    assert isinstance(value, (str, os.PathLike))
    return LabelFile(Path(value), DEFAULT_SCRIBBLE_NONE if name == "scribbles" else None)


def _label_map(name: str, value: object, none_of_picture: int | None) -> tuple[Any, NDArray[np.int64], int | None]:
    """What an error should name, the numbers ``[h, w]``, and which of them stands for none, besides -1 in an array."""
    if isinstance(value, LabelFile):
        return value.path, read_label_map(value.path).astype(np.int64), value.none
    module = sys.modules.get("PIL.Image")
    if module is not None and isinstance(value, module.Image):
        if len(value.getbands()) > 1:
            raise ValueError(one_line(name, f"is a PIL image of mode {value.mode}; want a palette or grey image"))
        return name, np.asarray(value).astype(np.int64), none_of_picture
    wanted = "want a path, a PIL image, or an array [H, W] of integers"
    if not hasattr(value, "__array__"):
        raise TypeError(one_line(name, f"is a {type(value).__name__}; {wanted}"))
    array = np.asarray(value)
    if array.dtype.kind not in "biu":
        raise TypeError(one_line(name, f"has dtype {array.dtype}; {wanted}"))
    if array.ndim != 2 or array.size == 0:
        raise ValueError(one_line(name, f"has shape {array.shape}; {wanted}"))
    return name, array.astype(np.int64), None


def reduced_scribbles(scribbles: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Scribbles ``[H, W]`` at a smaller size; where labels fall on one pixel, the one that has the fewest stays.

    No stroke is lost, however thin, and none leaves the data of a mask that is reduced as well.
    """
    if scribbles.shape == size:
        return scribbles
    rows, columns = np.nonzero(scribbles >= 0)
    labels = scribbles[rows, columns]
    rarest_last = np.argsort(-np.bincount(labels)[labels], kind="stable")
    small = np.full(size, NO_LABEL, np.int64)
    cells = nearest(size[0], scribbles.shape[0])[rows], nearest(size[1], scribbles.shape[1])[columns]
    small[cells[0][rarest_last], cells[1][rarest_last]] = labels[rarest_last]
    return small


def _reduced_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """So that each pixel that is data finds data when labels are enlarged again."""
    if mask.shape == size:
        return mask
    rows, columns = np.nonzero(mask)
    small = np.zeros(size, np.bool_)
    small[nearest(size[0], mask.shape[0])[rows], nearest(size[1], mask.shape[1])[columns]] = True
    return small
