"""Label maps as polygons in GeoJSON, along the edges of pixels. Needs NumPy alone.

What turns masks into polygons elsewhere is rasterio (36 MB, with GDAL) or OpenCV, whose contours run through the
centres of pixels; neither belongs on a small device. Corners are found for the whole map at once, so time hardly
depends on the number of labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def feature_collection(labels: NDArray[np.int32]) -> dict[str, Any]:
    """A ``FeatureCollection`` with one ``Polygon`` for each 4-connected region, ready for JSON.

    Coordinates are those of the image: x to the right, y down, from 0, 0 at the upper left corner of the upper left
    pixel; the pixel in row r and column c is the square from c, r to c + 1, r + 1. Polygons cover exactly the pixels of
    their region, with holes where others are, and are valid: rings do not cross or touch themselves, outer ones have
    a positive area in these coordinates, holes a negative one.

    Args:
        labels: ``[H, W]``; pixels below 0 belong to nothing.

    Returns:
        Features in the order of their labels, with the properties ``label`` and ``area`` (pixels).
    """
    regions, label_of_region = _regions(labels)
    areas = np.bincount(regions[regions >= 0], minlength=len(label_of_region)).tolist()
    rings: list[list[list[list[int]]]] = [[] for _ in label_of_region]
    for region, is_hole, ring in _rings(regions):
        rings[region].insert(len(rings[region]) if is_hole else 0, ring)
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": {"label": int(label_of_region[region]), "area": areas[region]},
                "geometry": {"type": "Polygon", "coordinates": rings[region]},
            }
            for region in np.argsort(label_of_region, kind="stable").tolist()
        ],
    }


def _regions(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The 4-connected region of each pixel, ``[H, W]`` from 0, -1 where the label is below 0; and the label of each.

    Runs of equal labels in a row are joined with those above them: each takes the lowest number among those it
    touches, and the number of that one, until none is lower.
    """
    begins = np.ones(labels.shape, np.bool_)
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    run = np.cumsum(begins).reshape(labels.shape) - 1
    label_of_run = labels[begins]
    touching = (labels[1:] == labels[:-1]) & (begins[1:] | begins[:-1])  # once for each pair of runs
    upper, lower = run[:-1][touching], run[1:][touching]
    root = np.arange(len(label_of_run))
    while True:
        lowest = np.minimum(root[upper], root[lower])
        before = root.copy()
        np.minimum.at(root, before[upper], lowest)
        np.minimum.at(root, before[lower], lowest)
        while (root != root[root]).any():
            root = root[root]
        if (root == before).all():
            break
    is_region = (root == np.arange(len(root))) & (label_of_run >= 0)
    number = np.where(label_of_run >= 0, (np.cumsum(is_region) - 1)[root], -1)
    return number[run], label_of_run[is_region]


def _rings(regions: NDArray[np.int64]) -> list[tuple[int, bool, list[list[int]]]]:
    """All rings: the region, whether it is a hole, and its corners x, y, the first of them again at the end."""
    corner_region, x, y, to_right, is_source = _corners(regions)
    # Along a row of the grid, and along a column, the corners of a region pair up: edges between them are its own.
    along_row = _paired((corner_region, y, x, to_right[0]), regions.shape)
    along_column = _paired((corner_region, x, y, to_right[1]), regions.shape)
    sources = np.flatnonzero(is_source)
    number = np.empty(len(x), np.int64)
    number[sources] = np.arange(len(sources))
    targets = along_row[sources]
    following = number[along_column[targets]].tolist()
    corners = np.stack([x[sources], y[sources], x[targets], y[sources]], axis=-1).reshape(-1, 2, 2)
    # Edges along columns alone make up the area: from each target to the next source.
    next_y = y[along_column[targets]]
    strips = (x[targets] * (next_y - y[targets])).tolist()
    points, region_of = corners.tolist(), corner_region[sources].tolist()
    seen = bytearray(len(sources))
    rings = []
    for begin in range(len(sources)):
        if seen[begin]:
            continue
        ring: list[list[int]] = []
        area, at = 0, begin
        while not seen[at]:
            seen[at] = 1
            ring += points[at]
            area += strips[at]
            at = following[at]
        ring.append(points[begin][0])
        rings.append((region_of[begin], area < 0, ring))
    return rings


def _corners(
    regions: NDArray[np.int64],
) -> tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    tuple[NDArray[np.int64], NDArray[np.int64]],
    NDArray[np.bool_],
]:
    """The corners of all boundaries.

    A corner lies in one of the four pixels around a point of the grid: where that pixel alone is of a region, or where
    it is not and both beside it are. Where a region meets itself across the point, this is the case for two pixels, and
    each has a corner of its own: the boundary turns around what is not the region, and does not touch itself.

    Returns:
        The region, x and y of each corner; whether its edges lead to the right and down, 0 or 1; and whether the
        boundary leaves it along the row, with the region below edges that go to the right.
    """
    padded = np.pad(regions, 1, constant_values=-1)
    height, width = regions.shape
    found = []
    for down in (0, 1):
        for right in (0, 1):

            def around(down: int, right: int) -> NDArray[np.int64]:
                return padded[down : height + 1 + down, right : width + 1 + right]

            pixel, beside = around(down, right), around(down, 1 - right)
            above_or_below, across = around(1 - down, right), around(1 - down, 1 - right)
            differs = pixel != beside
            alone = differs & (pixel >= 0) & (pixel != above_or_below) & (pixel != across)
            missing = differs & (beside >= 0) & (beside == above_or_below)
            for where, region, inside_is_below in ((alone, pixel, down), (missing, beside, 1 - down)):
                y, x = np.nonzero(where)
                directions = np.full((2, len(x)), [[right], [down]])
                found.append((region[where], x, y, directions, np.full(len(x), right == inside_is_below)))
    region, x, y, directions, is_source = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    return region, x, y, (directions[0], directions[1]), is_source


def _paired(keys: tuple[NDArray[np.int64], ...], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The other end of the edge that each corner has: corners in the order of ``keys`` pair up, first and second.

    Args:
        keys: region, line of the grid, place on the line, and 0 before 1 for two at one place: an edge ends where
            another begins.
        shape: of the image.
    """
    region, line, place, begins = keys
    longest = max(shape) + 1
    order = np.argsort(((region * longest + line) * longest + place) * 2 + begins)
    partner = np.empty_like(order)
    partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    return partner
