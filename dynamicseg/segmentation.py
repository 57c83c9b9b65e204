"""The result of segmenting one image: labels, what led to them, and the files they are saved as."""

from __future__ import annotations

import io
import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg import coco, geojson, label_pictures
from dynamicseg._files import whole_file
from dynamicseg._words import did_you_mean
from dynamicseg.io import (
    label_map_suffix,
    label_palette,
    no_data_number,
    write_image,
    write_json,
    write_label_map,
)
from dynamicseg.resizing import resized_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynamicseg.config import SegmenterConfig

# What each format adds to the stem, in the order of writing. The JSON comes last: where it is, the
# set is complete.
_TAILS = {
    "png": "_labels.png",
    "npy": "_labels.npy",
    "boundaries": "_boundaries.png",
    "overlay": "_overlay.png",
    "coco": ".coco.json",
    "geojson": ".geojson",
    "json": ".json",
}
DEFAULT_FORMATS = ("png", "overlay", "json")
_NOTEBOOK_PIXELS = 1_000_000


def output_paths(
    directory: str | os.PathLike[str],
    stem: str,
    formats: str | Sequence[str] = DEFAULT_FORMATS,
    *,
    n_labels: int = 0,
) -> dict[str, Path]:
    """Return the file of each format, in the order in which `Segmentation.save` writes them.

    Args:
        directory: the output folder.
        stem: relative to it, with forward slashes; `a/x` gives `a/x_labels.png`.
        formats: any of `png` (label map), `overlay`, `boundaries`, `npy` (label map as a NumPy
            array), `coco` and `geojson` (see `LabelledImage.to_coco` and `to_geojson`), and `json`
            (everything else that is known).
        n_labels: above 65536 labels the label map is a TIFF.

    Raises:
        ValueError: an unknown format, none at all, or a stem that leaves the folder.
    """
    relative = PurePosixPath(stem)
    windows_anchor = Path(stem).anchor
    if not relative.name or relative.is_absolute() or windows_anchor or ".." in relative.parts:
        raise ValueError(f"stem {stem!r} does not name a file inside the output folder")
    wanted = _known_formats(formats)
    tails = {**_TAILS, "png": f"_labels{label_map_suffix(n_labels)}"}
    folder = Path(directory, *relative.parts[:-1])
    return {name: folder / f"{relative.name}{tail}" for name, tail in tails.items() if name in wanted}


def is_saved(
    directory: str | os.PathLike[str],
    stem: str,
    formats: str | Sequence[str] = DEFAULT_FORMATS,
) -> bool:
    """Tell whether all files of these formats are there, whatever the number of labels.

    With `json` among the formats this means that one call of `Segmentation.save` ended well: it
    removes an old JSON first and writes the new one last.
    """
    small = output_paths(directory, stem, formats)
    large = output_paths(directory, stem, formats, n_labels=sys.maxsize)
    return all(small[name].is_file() or large[name].is_file() for name in small)


def describe_input(path: str | os.PathLike[str], channel_axis: int | None) -> dict[str, Any]:
    """What identifies an input file, by the system alone: place, size, time of change, and how it is read.

    Raises:
        OSError: there is no such file.
    """
    status = os.stat(path)
    return {
        "path": os.path.abspath(path),
        "bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "channel_axis": channel_axis,
    }


def _known_formats(formats: str | Sequence[str]) -> set[str]:
    wanted = [formats] if isinstance(formats, str) else list(formats)
    known = ", ".join(_TAILS)
    if not wanted:
        raise ValueError(f"no format to save; known formats: {known}")
    for name in wanted:
        if name not in _TAILS:
            raise ValueError(f"unknown format {name!r}; known formats: {known}{did_you_mean(name, _TAILS)}")
    return set(wanted)


class LabelledImage:
    """A label map over its image: what is drawn of the two, and the files they are saved as.

    Whatever derives from it has these attributes:

    Attributes:
        labels: int32 `[H, W]`, 0 to `n_labels` - 1, or -1 where there is no data.
        n_labels: one more than the highest label may be.
        image: `[H, W, C]` as given; the overlay is drawn over it.
        source: where the image came from, None for an array.
    """

    labels: NDArray[np.int32]
    n_labels: int
    image: NDArray[Any]
    source: str | None

    def __post_init__(self) -> None:
        """Check that the parts fit together: ValueError or TypeError if they do not."""
        labels, image = self.labels, self.image
        if labels.dtype != np.int32 or labels.ndim != 2 or labels.size == 0:
            raise TypeError(f"labels are {labels.dtype} {labels.shape}; want int32 [H, W]")
        if image.ndim != 3 or image.shape[:2] != labels.shape:
            raise ValueError(f"image is {image.shape}, labels are {labels.shape}; want [H, W, C]")
        smallest, largest = int(labels.min()), int(labels.max())
        if smallest < -1 or largest >= self.n_labels:
            raise ValueError(
                f"labels run from {smallest} to {largest}; want 0 to n_labels - 1 = {self.n_labels - 1}, or -1"
            )

    @property
    def palette(self) -> NDArray[np.uint8]:
        """The colour of each label, uint8 `[n_labels, 3]`."""
        return label_palette(self.n_labels)

    def areas(self) -> NDArray[np.int64]:
        """Return the number of pixels of each label, int64 `[n_labels]`."""
        return np.bincount(self.labels[self.labels >= 0], minlength=self.n_labels).astype(np.int64)

    def boundaries(self) -> NDArray[np.bool_]:
        """Return bool `[H, W]`: pixels with a 4-neighbour of another label.

        Two pixels wide, one on each side of an edge, as `skimage.segmentation.find_boundaries` with `mode="thick"`; its
        other modes treat label 0 as background, here it is a region like any other.
        """
        higher, lower = label_pictures.edge_sides(self.labels)
        return higher | lower

    def overlay(self, alpha: float = 0.45) -> NDArray[np.uint8]:
        """Return the label colours over the image, with boundaries, as uint8 `[H, W, 3]`.

        Each boundary is a light line beside a dark one, so that it shows on any photo. Pixels without data are dim.

        Args:
            alpha: from 0, the image alone with boundaries, to 1, the colours alone.

        Raises:
            ValueError: alpha is not in 0 to 1.
        """
        return label_pictures.overlay(self.labels, self.image, self.palette, alpha)

    def to_coco(self, *, image_id: int = 1, first_annotation_id: int = 1) -> dict[str, Any]:
        """Return the labels in the COCO format, ready for JSON: one annotation for each label that the image has.

        Masks are compressed run lengths, which `pycocotools.mask.decode` reads. Categories are the labels, with ids
        one higher: 0 is background to much that reads COCO. Pixels without data belong to nothing.

        Args:
            image_id: of the image, where those of several images go into one file.
            first_annotation_id: of the first annotation; the others follow.
        """
        height, width = self.labels.shape
        name = "" if self.source is None else os.path.basename(self.source)
        return {
            "images": [{"id": image_id, "width": width, "height": height, "file_name": name}],
            "annotations": coco.label_annotations(self.labels, image_id=image_id, first_id=first_annotation_id),
            "categories": coco.label_categories(self.palette),
        }

    def to_geojson(self) -> dict[str, Any]:
        """Return one polygon with its holes for each connected region: a GeoJSON `FeatureCollection`, ready for JSON.

        Coordinates are pixels: x to the right, y down, from the upper left corner of the image; see
        `geojson.feature_collection`. Properties are `label` and `area`. Pixels without data belong to nothing.
        """
        return geojson.feature_collection(self.labels)

    def metadata(self) -> dict[str, Any]:
        """Return everything but the pixels, ready for strict JSON."""
        raise NotImplementedError

    def save(
        self,
        directory: str | os.PathLike[str],
        stem: str,
        formats: str | Sequence[str] = DEFAULT_FORMATS,
    ) -> list[Path]:
        """Write `<stem>_labels.png`, `<stem>_overlay.png`, `<stem>.json` and what else is asked.

        Each file appears whole or not at all. The JSON is written last and an old one is removed
        first, so where it is, the files belong together.

        Args:
            directory: the output folder; made if it is missing.
            stem: see `output_paths`.
            formats: see `output_paths`.

        Returns:
            The files, in the order of writing.

        Raises:
            ValueError: see `output_paths`.
            OSError: the folder cannot be written to.
        """
        numbers = self.n_labels + bool((self.labels < 0).any())
        paths = output_paths(directory, stem, formats, n_labels=numbers)
        if "json" in paths:
            paths["json"].unlink(missing_ok=True)
        for name, path in paths.items():
            self._write(name, path)
        return list(paths.values())

    def _drawn(self) -> NDArray[np.uint8]:
        """What is saved as overlay."""
        return self.overlay()

    def _repr_png_(self) -> bytes:
        """The overlay as a notebook shows it, reduced to a million pixels."""
        from PIL import Image

        size = label_pictures.size_of_at_most(self.labels.shape, _NOTEBOOK_PIXELS)
        # Labels are reduced before anything is drawn, so that boundaries stay lines.
        reduced: LabelledImage = replace(
            self,  # type: ignore[type-var]
            labels=resized_labels(self.labels, size),
            image=label_pictures.resized_image(self.image, size),
        )
        written = io.BytesIO()
        Image.fromarray(reduced._drawn()).save(written, format="PNG")
        return written.getvalue()

    def _write(self, name: str, path: Path) -> None:
        if name == "png":
            write_label_map(path, self.labels, self.palette)
        elif name == "npy":
            with whole_file(path) as temporary:
                np.save(temporary, self.labels, allow_pickle=False)
        elif name == "boundaries":
            write_image(path, self.boundaries().astype(np.uint8) * np.uint8(255))
        elif name == "overlay":
            write_image(path, self._drawn())
        elif name == "coco":
            write_json(path, self.to_coco(), compact=True)
        elif name == "geojson":
            write_json(path, self.to_geojson(), compact=True)
        else:
            write_json(path, self.metadata())


@dataclass(frozen=True, eq=False)
class Segmentation(LabelledImage):
    """The segmentation of one image.

    Attributes:
        labels: int32 `[H, W]`, 0 to `n_labels` - 1; -1 where a mask says that there is no data.
        n_labels: how many labels there are; with scribbles, one more than the highest.
        history: one dict a training step: `step` (from 1), `loss`, `similarity`, `continuity`,
            `weight`, `n_labels`.
        config: what the run was configured with.
        timings: seconds spent, by phase.
        image: `[H, W, C]` as given; the overlay is drawn over it.
        source: where the image came from, None for an array.
        input: what `describe_input` tells of the file, empty for an array.
        stopped: why training ended: `few_labels` (the network has hardly any labels left), `max_steps` (all steps are
            done) or `time_budget` (another step would not have ended in time); None if there was no training.
        threads: how many threads PyTorch computed with on the CPU: with another number it rounds differently, and
            training magnifies that.
        trained_size: height and width at which the network saw the image; None for the image's own.
        guidance: of the files of scribbles, guide and mask, what identifies them.
        label_floor: the least number of labels that the weighting counted.

    Labels that come from training on the image itself have no gaps, and the largest region is
    label 0 (`numbering.relabel_by_area`), unless there are scribbles, see `numbering.final_numbers`.
    """

    labels: NDArray[np.int32]
    n_labels: int
    history: Sequence[Mapping[str, Any]]
    config: SegmenterConfig
    timings: Mapping[str, float]
    image: NDArray[Any] = field(repr=False)
    source: str | None = None
    input: Mapping[str, Any] = field(default_factory=dict, repr=False)
    stopped: str | None = None
    trained_size: tuple[int, int] | None = None
    threads: int | None = None
    guidance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    label_floor: int = 1

    def __repr__(self) -> str:
        """Return one line: size, labels, steps, why they ended, and source."""
        height, width = self.labels.shape
        stopped = f", stopped={self.stopped!r}" if self.stopped is not None else ""
        source = f", source={self.source!r}" if self.source is not None else ""
        return f"Segmentation({height}x{width}, n_labels={self.n_labels}, steps={len(self.history)}{stopped}{source})"

    def metadata(self) -> dict[str, Any]:
        """Return everything but the pixels, ready for strict JSON; NaN and infinity become None."""
        height, width, channels = self.image.shape
        trained_height, trained_width = self.trained_size or (height, width)
        described: dict[str, Any] = {
            "source": self.source,
            "input": self.input,
            "guidance": self.guidance,
            "size": {"height": height, "width": width, "channels": channels},
            "trained_size": {"height": trained_height, "width": trained_width},
            "dtype": str(self.image.dtype),
            "n_labels": self.n_labels,
            "areas": self.areas().tolist(),
            "no_data": self._no_data(),
            "label_floor": self.label_floor,
            "config": self.config.model_dump(mode="json"),
            "threads": self.threads,
            "timings": self.timings,
            "versions": versions(),
            "stopped": self.stopped,
            "history": self.history,
        }
        ready = json_ready(described)
        assert isinstance(ready, dict)
        return ready

    def _no_data(self) -> dict[str, int] | None:
        """How many pixels are no data, and which number they have in the label image; None where all are."""
        pixels = int(np.count_nonzero(self.labels < 0))
        return {"pixels": pixels, "number": no_data_number(self.n_labels)} if pixels else None


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on, by name."""
    found = {
        "dynamicseg": package_version(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    torch = sys.modules.get("torch")  # never imported for this: it takes seconds
    if torch is not None:
        found["torch"] = str(torch.__version__)
    return found


def package_version() -> str:
    """Return the version of the installed package, `0+unknown` when it runs from a source tree."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dynamicseg")
    except PackageNotFoundError:
        return "0+unknown"


def hex_colours(palette: NDArray[np.uint8]) -> list[str]:
    """``#rrggbb`` of each label, from uint8 ``[n_labels, 3]``."""
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette.tolist()]


def json_ready(value: object) -> object:
    """Return the value in plain Python types; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return json_ready(value.tolist())
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, np.generic):
        return json_ready(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
