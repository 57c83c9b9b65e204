"""One picture of what the presets make of some photos: ``python -m dynamicseg.bench.picture PHOTO... -o FILE``.

A row for each photo: the photo, what a human drew where a data set has it, the published network and schedule (in
bfloat16 where the processor has it, for time), and the default preset.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from PIL import Image

from dynamicseg.evaluate.datasets import open_dataset
from dynamicseg.io import display_rgb, write_image
from dynamicseg.numbering import relabel_by_area
from dynamicseg.segmentation import Segmentation
from dynamicseg.segmenter import Segmenter

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEIGHT = 240
_GAP = 6


def picture(photos: list[Path], dataset: Path | None = None, published_steps: int = 1000) -> NDArray[np.uint8]:
    """The rows, below one another, uint8 ``[H, W, 3]``.

    Args:
        photos: image files.
        dataset: the folder of one split of BSDS500 with its MAT files, if the photos are of it: then the annotator with
            the median number of segments is shown.
        published_steps: at most so many steps of the published preset.

    Raises:
        ValueError: the data set has no truth of a photo.
    """
    found = None if dataset is None else open_dataset(dataset, "bsds500")
    truth = {} if found is None else {item.stem: item for item in found.items}
    default, paper = Segmenter(), Segmenter("paper", max_steps=published_steps, precision="auto")
    rows = []
    for photo in photos:
        if found is not None and photo.stem not in truth:
            raise ValueError(f"{dataset} has no truth of {photo}")
        ours, published = default.segment(photo), paper.segment(photo)
        panels = [display_rgb(ours.image)]
        if found is not None:
            panels.append(_drawn(ours, found.annotators(truth[photo.stem])).overlay())
        panels += [published.overlay(), ours.overlay()]
        rows.append(_beside_each_other([_of_height(panel) for panel in panels]))
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, ((0, _GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    )


def _drawn(ours: Segmentation, annotators: list[NDArray[Any]]) -> Segmentation:
    """What the annotator with the median number of segments drew."""
    by_count = sorted(annotators, key=lambda labels: len(np.unique(labels)))
    labels = relabel_by_area(by_count[len(by_count) // 2])
    return replace(ours, labels=labels, n_labels=int(labels.max()) + 1)


def _of_height(panel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = panel.shape[:2]
    size = (round(width * _HEIGHT / height), _HEIGHT)
    return np.asarray(Image.fromarray(panel).resize(size, Image.Resampling.LANCZOS))


def _beside_each_other(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = np.full((_HEIGHT, _GAP, 3), 255, np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def main(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Image files.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The picture, PNG.")],
    dataset: Annotated[Path | None, typer.Option(help="MAT files of BSDS500, if the photos are of it.")] = None,
    published_steps: Annotated[int, typer.Option(help="At most so many steps of the published preset.")] = 1000,
) -> None:
    """Photo, human, published preset and default preset, side by side."""
    write_image(output, picture(photos, dataset, published_steps))
    print(output)


if __name__ == "__main__":
    typer.run(main)
