"""Superpixels that strokes divide, and labels that grow from strokes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dynamicseg.scribble_regions import grown_labels, split_by_scribbles

NONE = np.full((4, 12), -1)


def columns(width: int = 3, height: int = 4, count: int = 4) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.repeat(np.arange(count), width)[None].repeat(height, axis=0)


def grow(colours: list[float], scribbles: np.ndarray[Any, Any], *, everywhere: bool, **options: Any) -> list[int]:
    """The label of each of four columns."""
    superpixels = options.pop("superpixels", columns())
    values = np.repeat(np.array(colours, np.float32), 3)[None, :, None].repeat(4, axis=0).repeat(3, axis=2)
    network = options.pop("network", np.full(superpixels.shape, 9))
    found = grown_labels(superpixels, scribbles, values, [superpixels * 0], network, everywhere=everywhere)
    assert found.shape == superpixels.shape
    return [int(label) for label in found[0, ::3]]


def test_a_superpixel_with_strokes_of_two_labels_is_divided_between_them() -> None:
    scribbles = NONE.copy()
    scribbles[1, 0], scribbles[1, 2], scribbles[0, 4] = 0, 1, 1
    found = split_by_scribbles(columns(), scribbles)
    assert (found[:, 3:] == columns()[:, 3:]).all()  # one label: left alone
    assert sorted(np.unique(found)) == [0, 1, 2, 3, 4]
    for label in (0, 1):
        assert len(np.unique(found[:, :3][scribbles[:, :3] == label])) == 1
    assert found[1, 0] != found[1, 2]
    assert found[3, 0] == found[1, 0]
    assert found[3, 2] == found[1, 2]


def test_no_data_stays_no_data() -> None:
    superpixels, scribbles = columns(), NONE.copy()
    superpixels[0] = -1
    scribbles[2, 0], scribbles[3, 1] = 0, 1
    found = split_by_scribbles(superpixels, scribbles)
    assert (found[0] == -1).all()
    assert (found[1:] >= 0).all()


def test_labels_grow_over_weak_edges_and_stop_at_strong_ones() -> None:
    scribbles = NONE.copy()
    scribbles[:, 0], scribbles[:, 10] = 0, 1
    assert grow([10, 12, 60, 62], scribbles, everywhere=True) == [0, 0, 1, 1]
    assert grow([10, 12, 14, 62], scribbles, everywhere=True) == [0, 0, 0, 1]
    assert grow([10, 60, 58, 62], scribbles, everywhere=True) == [0, 1, 1, 1]


def test_what_is_like_nothing_drawn_keeps_to_itself_unless_everything_is_to_be_drawn() -> None:
    scribbles = NONE.copy()
    scribbles[:, 0] = 0
    assert grow([0, 2, 90, 92], scribbles, everywhere=False) == [0, 0, -1, -1]
    assert grow([0, 2, 90, 92], scribbles, everywhere=True) == [0, 0, 0, 0]


def test_the_network_decides_where_colours_cannot() -> None:
    scribbles = NONE.copy()
    scribbles[:, 0], scribbles[:, 10] = 0, 1
    colours = [20.0, 40, 40, 60]
    for label in (0, 1):
        network = np.where(columns() == 1, label, 9)
        found = grow(colours, scribbles, everywhere=True, network=network)
        assert found[1] == label


def test_parts_that_no_walk_leads_out_of_still_get_a_label() -> None:
    superpixels, scribbles = columns(), NONE.copy()
    superpixels[:, 3:6] = -1  # an island on the left, without a stroke
    superpixels[superpixels > 0] -= 1
    scribbles[:, 8] = 0
    found = grow([10, 10, 10, 10], scribbles, everywhere=True, superpixels=superpixels)
    assert found == [0, -1, 0, 0]


@pytest.mark.parametrize("everywhere", [True, False])
def test_strokes_on_every_superpixel_leave_nothing_to_find(everywhere: bool) -> None:
    scribbles = columns()
    assert grow([1, 2, 3, 4], scribbles, everywhere=everywhere) == [0, 1, 2, 3]
