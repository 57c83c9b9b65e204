"""The pictures of the documentation: ``python -m dynamicseg.bench.picture presets|weights|quality ... -o FILE``.

``presets`` has a row for each photo: the photo, what a human drew where a data set has it, the published network and
schedule (in bfloat16 where the processor has it, for time), and the default preset. ``weights`` draws what the dynamic
weights do while the published network is trained on a photo, and ``quality`` what reports of ``bench quality`` say,
together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from PIL import Image

from dynamicseg._files import whole_file
from dynamicseg.bench import quality
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


def weights_chart(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws labels, weight on continuity and loss over the steps, a line for each weighting.

    Args:
        histories: by weighting, the history of a segmentation.
        path: the suffix decides the format: ``.png``, ``.svg``, ``.pdf``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    titles = {"n_labels": "labels alive, K", "weight": "weight on continuity", "loss": "loss"}
    for axes, (what, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for weighting, history in histories.items():
            formula = {"fsf": "K / mu", "scf": "mu / K"}.get(weighting, "mu")
            steps = [record["step"] for record in history]
            axes.plot(steps, [record[what] for record in history], label=f"{weighting}: {formula}")
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150)


app = typer.Typer(help="The pictures of the documentation.", no_args_is_help=True)
Output = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The picture.")]


@app.command()
def presets(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Image files.")],
    output: Output,
    dataset: Annotated[Path | None, typer.Option(help="MAT files of BSDS500, if the photos are of it.")] = None,
    published_steps: Annotated[int, typer.Option(help="At most so many steps of the published preset.")] = 1000,
) -> None:
    """Photo, human, published preset and default preset, side by side."""
    write_image(output, picture(photos, dataset, published_steps))
    print(output)


@app.command()
def weights(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="An image file.")],
    output: Output,
    steps: Annotated[int, typer.Option(help="Of training at the most.")] = 100,
) -> None:
    """Labels, weight and loss over the steps of the published network, with both dynamic weights."""
    histories = {
        weighting: Segmenter("paper", weighting, max_steps=steps, precision="auto").segment(photo).history
        for weighting in ("fsf", "scf")
    }
    weights_chart(histories, output)
    print(output)


@app.command("quality")
def quality_chart(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="JSON files of bench quality.")],
    output: Output,
) -> None:
    """Scores against seconds an image, of several reports of one data set."""
    quality.plot(quality.merged([json.loads(report.read_text(encoding="utf-8")) for report in reports]), output)
    print(output)


if __name__ == "__main__":
    app()
