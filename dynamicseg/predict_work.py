"""What ``dynamicseg predict`` does with each input, an image or a video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamicseg._files import check_writable
from dynamicseg._words import counted
from dynamicseg.inputs import InputImage
from dynamicseg.segmentation import DEFAULT_FORMATS, output_paths
from dynamicseg.video_files import is_video, video_paths
from dynamicseg.workers import Show, Work

if TYPE_CHECKING:
    from dynamicseg.predict import Predictor

VIDEO_FORMATS = ("overlay", "json")
"""What is written of a video unless formats are named: a label map for each frame would be thousands of files."""


@dataclass(frozen=True, kw_only=True)
class PredictWork(Work):
    """Each input is labelled by one model.

    ``formats`` are those of images; ``video_formats`` those of videos.
    """

    predictor: Predictor
    tile: int | None = None
    video_formats: tuple[str, ...] = VIDEO_FORMATS

    def finish(self, image: InputImage, show: Show) -> str:
        """Predicts, and saves the result."""
        if is_video(image.path):
            return self._video(image, show)
        show(0, "reading")
        result = self.predictor.predict(
            image.path,
            channel_axis=self.channel_axis,
            tile=self.tile,
            on_tile=lambda done, total: show(done, f"of {total} tiles"),
        )
        written = result.save(self.output, image.stem, self.formats)
        present = int((result.areas() > 0).sum())
        tiles = "" if result.tile is None else f", tiles of {result.tile}"
        seconds = result.timings["total"]
        return f"{image.path}: {present} of {counted(result.n_labels, 'label')}{tiles}, {seconds:.2f} s -> {written[0]}"

    def _video(self, image: InputImage, show: Show) -> str:
        from dynamicseg.video import predict_video

        report = predict_video(
            self.predictor,
            image.path,
            self.output,
            image.stem,
            self.video_formats,
            tile=self.tile,
            on_frame=lambda done: show(done, "frames"),
        )
        written = next(iter(video_paths(self.output, image.stem, self.video_formats).values()))
        seconds = report["timings"]["total"]
        return f"{image.path}: {counted(report['frames'], 'frame')}, {seconds:.1f} s -> {written}"

    def steps(self) -> int | None:
        """Tiles and frames are counted as they come."""
        return None

    def settings(self) -> Mapping[str, Any]:
        """The model, and what runs it."""
        return {"model": dict(self.predictor.model), "runtime": dict(self.predictor.runtime)}

    def is_saved(self, image: InputImage) -> bool:
        """Whether all files of the image or video are there."""
        if not is_video(image.path):
            return super().is_saved(image)
        return all(path.exists() for path in video_paths(self.output, image.stem, self.video_formats).values())


def chosen_formats(names: list[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Formats of images and of videos; None: the defaults of each."""
    if names is None:
        return DEFAULT_FORMATS, VIDEO_FORMATS
    return tuple(names), tuple(names)


def check_call(output: Path, formats: Sequence[str], tile: int | None) -> None:
    """Finds what is wrong with a call before a model is loaded.

    Raises:
        ValueError: an unknown format, or no tile.
        OSError: nothing can be written to the output folder.
    """
    output_paths(output, "stem", formats)
    if tile is not None and tile < 1:
        raise ValueError(f"tile wants at least 1 pixel, not {tile}")
    check_writable(output)
