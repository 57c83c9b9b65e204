"""Feature maps that were made before: in memory for a run, and in a folder where the user names one."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from dynamicseg._files import whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEPT_BYTES = 256 << 20


class MapCache:
    """Maps by what they were made of.

    Args:
        folder: keeps them as ``.npz`` files; None: only memory does, the ones asked for last.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._kept: OrderedDict[str, list[NDArray[np.float32]]] = OrderedDict()

    @staticmethod
    @lru_cache(maxsize=4)
    def of(folder: str | None) -> MapCache:
        """The one of a folder, or of none."""
        return MapCache(None if folder is None else Path(folder))

    def maps(
        self, made_by: object, image: NDArray[np.float32], make: Callable[[], list[NDArray[np.float32]]]
    ) -> list[NDArray[np.float32]]:
        """What ``make`` makes of an image.

        Args:
            made_by: all that decides it besides the image, ready for JSON.
            image: any shape.
            make: gives the same each time, one or more maps ``[C, h, w]``.

        Raises:
            OSError: the folder cannot be written to.
        """
        header = json.dumps([made_by, image.shape], sort_keys=True).encode()
        key = hashlib.sha256(header + np.ascontiguousarray(image).tobytes()).hexdigest()
        if key not in self._kept:
            path = None if self._folder is None else self._folder / f"{key}.npz"
            found = None if path is None else _read(path)
            if found is None:
                found = make()
                if path is not None:
                    _write(path, found)
            self._kept[key] = found
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(m.nbytes for maps in self._kept.values() for m in maps) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return self._kept[key]


def _read(path: Path) -> list[NDArray[np.float32]] | None:
    """None where the file is not there or damaged: then it is made anew."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
            maps = [content[str(number)] for number in range(len(content.files))]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return maps if maps and all(one.ndim == 3 and one.dtype == np.float32 for one in maps) else None


def _write(path: Path, maps: list[NDArray[np.float32]]) -> None:
    with whole_file(path) as temporary:
        np.savez(temporary, **{str(number): one for number, one in enumerate(maps)})  # type: ignore[arg-type]
