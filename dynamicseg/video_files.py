"""Names of videos and of what is written of them; nothing here reads one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dynamicseg.io import IMAGE_SUFFIXES
from dynamicseg.segmentation import output_paths

VIDEO_SUFFIXES = frozenset([".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".ogv"])
MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
"""What prediction looks for in folders."""

_TAILS = {"overlay": "_overlay.mp4", "png": "_labels", "json": ".json"}


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether the name says that it is a video."""
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES


def video_paths(directory: str | os.PathLike[str], stem: str, formats: str | Sequence[str]) -> dict[str, Path]:
    """What is written of a video, by format, in the order of writing.

    ``overlay`` is a video, ``png`` a folder with a label map for each frame, ``json`` everything else that is known.

    Raises:
        ValueError: a format that videos do not have, none at all, or a stem that leaves the folder.
    """
    known = output_paths(directory, stem, formats)
    for name in known:
        if name not in _TAILS:
            raise ValueError(f"videos have no format {name!r}: choose from {', '.join(_TAILS)}")
    return {name: path.with_name(stem.rpartition("/")[2] + _TAILS[name]) for name, path in known.items()}
