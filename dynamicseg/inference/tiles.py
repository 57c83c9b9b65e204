"""Images in parts: overlapping tiles, of which only what lies far enough from a cut is kept.

A label depends on the pixels within the model's radius. A tile that is cut out of an image has these around all of its
pixels but those within that radius of the cut; there the next tile gives the label. So the whole is what the model says
of the whole image, up to its very edge, where tiles end as the image does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dynamicseg._words import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynamicseg.inference.contract import ModelContract
    from dynamicseg.inference.running import RunningModel

OnTile = Callable[[int, int], None]
"""Told how many tiles are done, and of how many."""

_SHARE_OF_MEMORY = 0.5
_LARGEST_SIDE = 4096  # of a tile that is chosen here: a larger one is no faster, however much memory there is
_ROUND = 64


@dataclass(frozen=True)
class Span:
    """Along one axis, a tile: pixels ``start`` to ``stop`` go in, labels ``first`` to ``last`` are kept."""

    start: int
    stop: int
    first: int
    last: int


def spans(length: int, tile: int, radius: int, stride: int = 1) -> list[Span]:
    """Tiles along an axis of ``length`` pixels.

    Args:
        length: >= 1.
        tile: the most pixels in a tile, > 2 * radius + stride, a multiple of ``stride``.
        radius: as far from a cut, no label is kept.
        stride: tiles begin at multiples of it.
    """
    if length <= tile:
        return [Span(0, length, 0, length)]
    found, kept = list[Span](), 0
    while kept < length:
        # As far to the left as the surrounding of the first label to be kept reaches; the last tile as far as it can.
        start = max(0, kept - radius) // stride * stride
        last_start = math.ceil((length - tile) / stride) * stride
        start = min(start, last_start)
        stop = min(start + tile, length)
        last = length if stop == length else stop - radius
        found.append(Span(start, stop, kept, last))
        kept = last
    return found


def predict_tiled(
    model: RunningModel, image: NDArray[np.uint8], tile: int | None = None, on_tile: OnTile | None = None
) -> tuple[NDArray[np.int32], int | None]:
    """The label of each pixel, and the side of the tiles.

    Args:
        model: what predicts.
        image: ``[H, W, bands]``.
        tile: side of the tiles in pixels; None: what the model wants or memory allows.
        on_tile: called after each tile.

    Returns:
        Labels ``[H, W]``, and the larger side of the tiles, None where the image went through in one piece.

    Raises:
        ValueError: the tile does not suit the model, or the model cannot be cut into tiles.
        MemoryError: not even the smallest useful tile fits into memory.
    """
    height, width = image.shape[:2]
    sides = tile_sides(model, (height, width), tile)
    if model.size is None and height <= sides[0] and width <= sides[1]:
        return model.labels(_repeated(image[None], model.batch))[0], None
    # Without a radius there are no tiles: only an image of just the size of the model gets here.
    radius, stride = model.contract.radius or 0, model.contract.stride
    rows, columns = (spans(n, side, radius, stride) for n, side in zip((height, width), sides, strict=True))
    labels = np.empty((height, width), np.int32)
    for done, (row, column) in enumerate(((r, c) for r in rows for c in columns), 1):
        part = _filled(image[row.start : row.stop, column.start : column.stop], model.size)
        found = model.labels(_repeated(part[None], model.batch))[0]
        labels[row.first : row.last, column.first : column.last] = found[
            row.first - row.start : row.last - row.start, column.first - column.start : column.last - column.start
        ]
        if on_tile is not None:
            on_tile(done, len(rows) * len(columns))
    return labels, None if len(rows) * len(columns) == 1 else max(sides)


def tile_sides(model: RunningModel, size: tuple[int, int], tile: int | None = None) -> tuple[int, int]:
    """Height and width of the tiles for an image of ``size``; see ``predict_tiled``."""
    contract = model.contract
    if model.size is not None:
        if tile is not None:
            raise ValueError(f"the model takes images of {model.size[1]}x{model.size[0]} pixels: leave tile out")
        if contract.radius is None and size != model.size:
            raise ValueError(
                f"the image has {size[1]}x{size[0]} pixels, and the model takes {model.size[1]}x{model.size[0]} of the "
                "whole view: make the image so large, or export the model with --dynamic"
            )
        if _exceeds(size, model.size):
            _check_side(min(model.size), model, "the model's size is")
        check_fixed_size(
            model.batch or 1, model.size, model.bytes_per_pixel, model.free_memory(), model.facts["device"]
        )
        return model.size
    if tile is not None:
        if contract.radius is None:
            raise ValueError(f"{_no_tiles(contract)}: leave tile out")
        _check_side(tile, model, "tile is")
        return _within((tile, tile), model)
    return _automatic(model, size)


def _no_tiles(contract: ModelContract) -> str:
    knows = "sees features of the whole image" if contract.backbone else "knows where in the image a pixel lies"
    return f"this model {knows}, so it cannot go over parts of an image"


def _automatic(model: RunningModel, size: tuple[int, int]) -> tuple[int, int]:
    contract = model.contract
    bytes_per_pixel = model.bytes_per_pixel
    available = model.free_memory()
    pixels = math.inf if available is None else _SHARE_OF_MEMORY * available / bytes_per_pixel
    limit = model.largest or size
    if size[0] * size[1] <= pixels and not _exceeds(size, limit):
        return size
    if contract.radius is None:
        if _exceeds(size, limit):
            raise ValueError(f"{_no_tiles(contract)}; export it for images of {size[1]}x{size[0]} pixels, not {limit}")
        needed = size[0] * size[1] * bytes_per_pixel
        raise MemoryError(
            f"{size[1]}x{size[0]} pixels take about {needed / 1e9:.1f} GB, and {_no_tiles(contract)}: make the image "
            "smaller"
        )
    side = min(_LARGEST_SIDE, int(min(math.sqrt(pixels), 1 << 20)) // _ROUND * _ROUND)
    if side < _least_side(model):
        raise MemoryError(
            f"not even a tile of {_least_side(model)} pixels a side fits into half of the {(available or 0) / 1e9:.1f} "
            f"GB that are free on {model.facts['device']}: end other programs, or name a tile"
        )
    return _within((side, side), model)


def check_fixed_size(
    images: int, size: tuple[int, int], bytes_per_pixel: int, available: int | None, device: str
) -> None:
    """For a model that takes so many images of one size only: MemoryError if there is too little for them."""
    needed = images * size[0] * size[1] * bytes_per_pixel
    if available is not None and needed > available:
        raise MemoryError(
            f"the model takes {counted(images, 'image')} of {size[1]}x{size[0]} pixels at once, about "
            f"{needed / 1e9:.1f} GB, and {available / 1e9:.1f} GB are free on {device}: end other programs, or "
            "export it for less"
        )


def _within(sides: tuple[int, int], model: RunningModel) -> tuple[int, int]:
    stride = model.contract.stride
    limit = model.largest or sides
    height, width = (min(side, most) // stride * stride for side, most in zip(sides, limit, strict=True))
    _check_side(min(height, width), model, "the largest image of the engine is")
    return height, width


def _least_side(model: RunningModel) -> int:
    return 2 * (model.contract.radius or 0) + 2 * model.contract.stride


def _check_side(side: int, model: RunningModel, what: str) -> None:
    least = _least_side(model)
    if side < least:
        raise ValueError(
            f"{what} {side} pixels; this model looks {model.contract.radius} pixels far in each direction, so a tile "
            f"wants at least {least}"
        )


def _exceeds(size: tuple[int, int], limit: tuple[int, int]) -> bool:
    return size[0] > limit[0] or size[1] > limit[1]


def _filled(part: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """At the size that the model wants; what is missing on the right and below repeats the edge of the image."""
    if size is None or part.shape[:2] == size:
        return part
    missing = [(0, size[0] - part.shape[0]), (0, size[1] - part.shape[1]), (0, 0)]
    return np.pad(part, missing, mode="edge")


def _repeated(images: NDArray[np.uint8], batch: int | None) -> NDArray[np.uint8]:
    """As often as a model wants that takes no other number; the first result is taken."""
    return images if batch is None else np.repeat(images, batch, axis=0)
