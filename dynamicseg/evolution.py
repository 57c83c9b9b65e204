"""How the labels of one image come about, step by step, as an animated GIF. Needs NumPy and Pillow alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg._files import one_line, whole_file
from dynamicseg._words import counted
from dynamicseg.inputs import InputImage
from dynamicseg.io import label_palette
from dynamicseg.label_numbers import font_of_height
from dynamicseg.label_pictures import overlay, resized_image
from dynamicseg.resizing import resized_labels, size_within

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as PILImage

    from dynamicseg.segmentation import Segmentation

MOST_FRAMES = 40
LONGEST_SIDE = 640
_SHORTEST_SIDE = 320
"""The longer side of pictures of small images, which are shown enlarged."""
_STEPS_MS, _FRAME_MS, _RESULT_MS = 5000, (100, 400), 4000
"""Milliseconds of all steps together, at least and at most of each, and of the result."""
_TEXT_HEIGHT, _MARGIN = 14, 6
_NO_DATA, _WHITE, _LABEL_0 = 0, 1, 2
"""Colours of a frame: black, white, and from there on those of labels, which come again after 254."""
_LABEL_COLOURS = 256 - _LABEL_0


def check_file(path: Path, images: Sequence[InputImage]) -> None:
    """Finds what is wrong with ``--save-evolution`` before an image is segmented.

    Raises:
        ValueError: not the name of a GIF, more than one image, or the file is the image itself.
    """
    if path.suffix.lower() != ".gif":
        raise ValueError(one_line(path, "the evolution is an animated GIF; end the name in .gif"))
    if path.is_dir():
        raise ValueError(one_line(path, "is a folder; name a file in it"))
    if len(images) > 1:
        text = f"the evolution of one image goes into a file, and there are {len(images)} images: name one of them"
        raise ValueError(one_line(path, text))
    if any(os.path.realpath(image.path) == os.path.realpath(path) for image in images):
        raise ValueError(one_line(path, "is the image itself; name another file for its evolution"))


class Evolution:
    """Collects labels while a network is trained, a bounded number of times, and writes them as an animated GIF.

    >>> evolution = Evolution(max_steps=50)
    >>> segmentation = segment("photo.jpg", max_steps=50, on_labels=evolution.see)
    >>> evolution.save("photo.gif", segmentation)

    Args:
        max_steps: that training has at the most.
        most_frames: at least 2; the result is one of them. Early steps, in which most happens, are shown more often.
    """

    def __init__(self, max_steps: int, most_frames: int = MOST_FRAMES) -> None:
        self._steps = _shown_steps(max_steps, most_frames - 1)
        self._seen: list[tuple[str, NDArray[np.uint8]]] = []

    def see(self, record: Mapping[str, Any], labels: NDArray[np.integer[Any]]) -> None:
        """Keeps the labels of a step, if it is one that is shown; see ``Segmenter.segment``, ``on_labels``."""
        if record["step"] not in self._steps:
            return
        small = resized_labels(labels, size_within(labels.shape[0], labels.shape[1], LONGEST_SIDE))
        colours = np.where(small < 0, _NO_DATA, small % _LABEL_COLOURS + _LABEL_0).astype(np.uint8)
        text = f"step {record['step']}    {counted(record['n_labels'], 'label')}    weight {record['weight']:.3g}"
        self._seen.append((text, colours))

    def save(self, path: str | os.PathLike[str], segmentation: Segmentation) -> None:
        """Writes the labels of the steps, with their number and the weight on continuity, and then the result.

        Raises:
            OSError: the folder cannot be written to.
        """
        height, width = segmentation.labels.shape
        height, width = size_within(height, width, LONGEST_SIDE)
        enlarged = max(1.0, _SHORTEST_SIDE / max(height, width))
        size = round(height * enlarged), round(width * enlarged)
        frames = [_step_frame(resized_labels(colours, size), text) for text, colours in self._seen]
        frames.append(_result_frame(segmentation, size))
        shortest, longest = _FRAME_MS
        of_step = int(np.clip(_STEPS_MS // len(frames), shortest, longest))
        with whole_file(path) as temporary:
            frames[0].save(
                temporary,
                format="GIF",
                save_all=True,
                append_images=frames[1:],
                duration=[of_step] * (len(frames) - 1) + [_RESULT_MS],
                loop=0,
            )


def _shown_steps(max_steps: int, count: int) -> frozenset[int]:
    """At most ``count`` steps from 1 to ``max_steps``: all, or in equal proportions."""
    if max_steps <= count:
        return frozenset(range(1, max_steps + 1))
    return frozenset(np.rint(np.geomspace(1, max_steps, count)).astype(int).tolist())


def _step_frame(colours: NDArray[np.uint8], text: str) -> PILImage.Image:
    from PIL import Image

    picture = Image.fromarray(colours)
    labels = label_palette(_LABEL_COLOURS)
    picture.putpalette(np.concatenate([[[0, 0, 0], [255, 255, 255]], labels]).astype(np.uint8).tobytes())
    return _with_text(picture, text, background=_WHITE, ink=_NO_DATA)


def _result_frame(segmentation: Segmentation, size: tuple[int, int]) -> PILImage.Image:
    from PIL import Image

    labels, image = resized_labels(segmentation.labels, size), resized_image(segmentation.image, size)
    picture = Image.fromarray(overlay(labels, image, segmentation.palette, 0.45))
    present = int(np.count_nonzero(segmentation.areas()))
    text = f"result    {counted(present, 'label')}    {counted(len(segmentation.history), 'step')}"
    shown = _with_text(picture, text, background=(255, 255, 255), ink=(0, 0, 0))
    return shown.quantize(256, dither=Image.Dither.NONE)


def _with_text(picture: PILImage.Image, text: str, *, background: Any, ink: Any) -> PILImage.Image:
    """The picture with a line below, on a canvas that is wide enough for both."""
    from PIL import Image, ImageDraw

    font = font_of_height(_TEXT_HEIGHT)
    # A line is as wide as the longest there may be, so that all frames have one size.
    longest = ImageDraw.Draw(picture).textlength("step 100000    100 labels    weight 0.000001", font=font)
    canvas = Image.new(
        picture.mode, (max(picture.width, round(longest)), picture.height + _TEXT_HEIGHT + 2 * _MARGIN), background
    )
    if picture.palette is not None:
        canvas.putpalette(picture.palette)
    canvas.paste(picture, ((canvas.width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    draw.fontmode = "1" if picture.mode == "P" else "L"  # no colour of a palette lies between two others
    draw.text((_MARGIN, picture.height + _MARGIN // 2), text, fill=ink, font=font)
    return canvas
