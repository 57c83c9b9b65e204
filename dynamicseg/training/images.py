"""The images of a training: read when they are wanted, kept as far as a fixed amount of memory goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamicseg._files import one_line
from dynamicseg._words import counted, in_one_line
from dynamicseg.inputs import find_images
from dynamicseg.io import as_image
from dynamicseg.training.scribbles import Strokes

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEPT_BYTES = 512 << 20

OnFailure = Callable[[str], None]


def listed(images: object) -> tuple[list[Any], list[str]]:
    """All images that a path, an image, or a sequence of both means; and what could not be found, a line for each.

    Files, folders and patterns as on the command line; whatever is no path stays as it is.
    """
    several = not isinstance(images, (str, os.PathLike)) and not hasattr(images, "__array__")
    items = list(images) if several and isinstance(images, Iterable) else [images]
    found: list[Any] = []
    problems: list[str] = []
    for item in items:
        if isinstance(item, (str, os.PathLike)):
            of_path = find_images([os.fspath(item)])
            found += [image.path for image in of_path.images]
            problems += of_path.problems
        else:
            found.append(item)
    return list(dict.fromkeys(found)) if all(isinstance(item, Path) for item in found) else found, problems


class ImageSet:
    """Images by number, all with the same number of bands.

    What cannot be read, or has other bands than those before it, is told once and is None from then on.

    Args:
        sources: paths, PIL images or arrays, see ``io.as_image``.
        on_failure: is told of each that cannot be used; None: the first one raises.
        channel_axis: see ``io.as_image``.

    Attributes:
        bands: of all images, once one has been read.
        strokes: labels drawn in them, see ``scribbles.read_strokes``; none at first.
    """

    def __init__(
        self, sources: Sequence[object], on_failure: OnFailure | None = None, *, channel_axis: int | None = None
    ) -> None:
        self._sources = sources
        self._on_failure = on_failure
        self._channel_axis = channel_axis
        self._kept: dict[int, NDArray[Any]] = {}
        self._derived: dict[int, NDArray[Any]] = {}
        self._room = _KEPT_BYTES
        self._failed: set[int] = set()
        self.bands: int | None = None
        self.strokes: Strokes = {}

    def __len__(self) -> int:
        """How many there are, those that cannot be used among them."""
        return len(self._sources)

    def pixels(self, number: int) -> NDArray[Any] | None:
        """``[H, W, bands]`` of uint8, uint16 or float32; None: it cannot be used.

        Raises:
            ValueError, TypeError, OSError: it cannot be used, and nobody is told of failures.
        """
        if number in self._kept:
            return self._kept[number]
        if number in self._failed:
            return None
        source = self._sources[number]
        try:
            image = as_image(source, channel_axis=self._channel_axis)
            self._check_bands(number, image)
        except (ValueError, TypeError, OSError) as error:
            if self._on_failure is None:
                raise
            self._failed.add(number)
            self._on_failure(in_one_line(error))
            return None
        if isinstance(source, (str, os.PathLike)):
            self._keep(self._kept, number, image)
        return image

    def derived(self, number: int, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """What ``make`` makes of an image: always the same for one image, and kept as images are."""
        if number in self._derived:
            return self._derived[number]
        result = make()
        self._keep(self._derived, number, result)
        return result

    def _keep(self, where: dict[int, NDArray[Any]], number: int, array: NDArray[Any]) -> None:
        if array.nbytes <= self._room:
            self._room -= array.nbytes
            where[number] = array

    def _check_bands(self, number: int, image: NDArray[Any]) -> None:
        bands = image.shape[2]
        if self.bands is None:
            self.bands = bands
        elif bands != self.bands:
            name = self._sources[number]
            subject = name if isinstance(name, (str, os.PathLike)) else f"image {number}"
            text = f"has {counted(bands, 'band')}, those before it {self.bands}: train on images of one kind"
            raise ValueError(one_line(subject, text))
