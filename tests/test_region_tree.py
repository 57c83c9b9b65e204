"""The tree of regions against naive merging: the whole list of pairs is computed anew, from pixels, at every step."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dynamic_loss_cases import RunPython
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dynamicseg.region_tree import RegionTree, divided_by_features, merge_neighbours

GRADIENT_WEIGHT = 15.0
FEATURE_WEIGHT, HALF_AREA = 1000.0, 500.0


def random_case(seed: int, height: int, width: int, bands: int = 3) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Superpixels that are anything but connected, and colours."""
    random = np.random.default_rng(seed)
    numbers = random.integers(0, max(1, height * width // 5) + 1, (height, width))
    superpixels = np.unique(numbers, return_inverse=True)[1].reshape(height, width)
    return superpixels.astype(np.int64), (random.random((height, width, bands)) * 100).astype(np.float32)


def naive_gradient(colours: NDArray[np.float32]) -> NDArray[np.float64]:
    smooth = gaussian_filter(colours.astype(np.float64), (1, 1, 0))
    slopes = [np.gradient(smooth, axis=axis) for axis in (0, 1) if colours.shape[axis] > 1]
    return np.sqrt(sum((np.square(slope).sum(axis=2) for slope in slopes), np.zeros(colours.shape[:2])))


def naive_dissimilarity(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    colours: NDArray[np.float32],
    gradient: NDArray[np.float64],
    features: NDArray[np.float64],
) -> float | None:
    """Of two regions given as masks, by the features ``[H, W, F]`` of pixels; None where they do not touch."""
    along_border: list[float] = []
    for axis in (0, 1):

        def sides(array: NDArray[Any], axis: int = axis) -> tuple[NDArray[Any], NDArray[Any]]:
            length = array.shape[axis]
            return array.take(range(length - 1), axis), array.take(range(1, length), axis)

        in_first, in_second = sides(first), sides(second)
        border = (in_first[0] & in_second[1]) | (in_second[0] & in_first[1])
        along_border += (np.add(*sides(gradient)) / 2)[border].tolist()
    if not along_border:
        return None
    means = [colours[mask].astype(np.float64).mean(axis=0) for mask in (first, second)]
    by_colours = float(np.square(means[0] - means[1]).sum() + GRADIENT_WEIGHT * np.mean(along_border) ** 2)
    area = min(first.sum(), second.sum())
    difference = features[first].mean(axis=0) - features[second].mean(axis=0)
    return by_colours + float(FEATURE_WEIGHT * area / (area + HALF_AREA) * np.square(difference).sum())


def naive_children(
    superpixels: NDArray[np.int64], colours: NDArray[np.float32], features: NDArray[np.float64] | None = None
) -> list[tuple[int, int]]:
    gradient = naive_gradient(colours)
    of_pixels = np.zeros((*superpixels.shape, 1)) if features is None else features[superpixels]
    regions = {number: superpixels == number for number in range(superpixels.max() + 1)}
    known: dict[tuple[int, int], float | None] = {}
    children: list[tuple[int, int]] = []
    while len(regions) > 1:
        pairs = [(first, second) for first in regions for second in regions if first < second]
        for first, second in pairs:
            if (first, second) not in known:
                known[first, second] = naive_dissimilarity(
                    regions[first], regions[second], colours, gradient, of_pixels
                )
        _, first, second = min((value, *pair) for pair in pairs if (value := known[pair]) is not None)
        union = superpixels.max() + 1 + len(children)
        children.append((first, second))
        regions[union] = regions.pop(first) | regions.pop(second)
    return children


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 8), width=st.integers(1, 8), bands=st.sampled_from([1, 3, 13]))
def test_neighbours_are_merged_in_the_naive_order(seed: int, height: int, width: int, bands: int) -> None:
    superpixels, colours = random_case(seed, height, width, bands)
    tree = merge_neighbours(superpixels, colours)
    assert [tuple(pair) for pair in tree.children.tolist()] == naive_children(superpixels, colours)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 8), width=st.integers(1, 8), count=st.integers(1, 4))
def test_with_features_neighbours_are_merged_in_the_naive_order(seed: int, height: int, width: int, count: int) -> None:
    superpixels, colours = random_case(seed, height, width)
    features = np.random.default_rng(seed).standard_normal((superpixels.max() + 1, count))
    tree = merge_neighbours(superpixels, colours, features)
    assert [tuple(pair) for pair in tree.children.tolist()] == naive_children(superpixels, colours, features)


def test_what_has_one_colour_but_other_features_stays_apart_longest() -> None:
    superpixels = np.repeat(np.arange(4), 60).reshape(1, -1).repeat(60, axis=0).astype(np.int64)
    colours = np.where(superpixels % 2 == 0, 50, 55)[..., None].astype(np.float32)
    features = np.array([[-1.0], [-1.0], [1.0], [1.0]])
    last = merge_neighbours(superpixels, colours, features).region_map(np.array([4, 5]))
    assert np.array_equal(last, superpixels // 2)


def test_features_alone_divide_an_image_into_few_regions() -> None:
    superpixels = np.arange(16 * 16, dtype=np.int64).reshape(16, 16)
    features = np.where(superpixels % 16 < 8, -1.0, 1.0).reshape(-1, 1)
    features[3 * 16 + 3] = 9.0  # a small region with features of its own
    found = divided_by_features(superpixels, features)
    assert [int(one.max()) + 1 for one in found] == [5, 15, 40]
    assert all(np.unique(one[:, 8:] * 1000).size + np.unique(one[:, :8]).size == one.max() + 1 for one in found)


def test_an_image_of_fewer_superpixels_is_divided_into_these() -> None:
    superpixels = np.repeat(np.arange(3), 4).reshape(1, -1).astype(np.int64)
    for one in divided_by_features(superpixels, np.array([[0.0], [1.0], [0.0]])):
        assert np.array_equal(one, superpixels)


def test_many_neighbours_are_merged_in_the_naive_order() -> None:
    superpixels, colours = beside_a_background(7)
    assert [tuple(pair) for pair in merge_neighbours(superpixels, colours).children.tolist()] == naive_children(
        superpixels, colours
    )


def test_of_equally_similar_pairs_the_lowest_node_goes_first() -> None:
    superpixels = np.arange(6, dtype=np.int64)[None]
    tree = merge_neighbours(superpixels, np.zeros((1, 6, 3), np.float32))
    assert tree.children.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def test_a_smooth_slope_is_no_border_and_an_edge_is_one() -> None:
    # Dark to bright in small steps | then, behind an edge, from dark again; thirds of the slope are superpixels.
    slope = np.linspace(0, 60, 30)
    colours = np.tile(np.concatenate([slope, slope]), (8, 1))[..., None].astype(np.float32)
    superpixels = np.repeat(np.tile(np.arange(6), (8, 1)), 10, axis=1).astype(np.int64)
    last = merge_neighbours(superpixels, colours).region_map(np.array([8, 9]))
    assert np.array_equal(last[0], np.repeat([last[0, 0], last[0, -1]], 30))
    assert last[0, 0] != last[0, -1]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (9, 1), (5, 7)])
def test_one_superpixel_is_a_tree_without_merges(height: int, width: int) -> None:
    superpixels = np.zeros((height, width), np.int64)
    tree = merge_neighbours(superpixels, np.zeros((height, width, 3), np.float32))
    assert (tree.leaves, tree.children.shape) == (1, (0, 2))
    assert tree.areas().tolist() == [height * width]
    assert np.array_equal(tree.region_map(np.array([0])), superpixels)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 12), width=st.integers(1, 12), constant=st.booleans())
def test_the_last_node_is_the_whole_image_and_areas_are_those_of_the_masks(
    seed: int, height: int, width: int, constant: bool
) -> None:
    superpixels, colours = random_case(seed, height, width)
    tree = merge_neighbours(superpixels, np.zeros_like(colours) if constant else colours)
    assert len(tree.children) == tree.leaves - 1
    masks = node_masks(tree)
    assert tree.areas().tolist() == [int(mask.sum()) for mask in masks]
    assert masks[-1].all()
    # Undoing the last merges one by one gives a partition each time.
    nodes = [len(masks) - 1]
    while nodes[-1] >= tree.leaves:
        found = tree.region_map(np.array(nodes))
        for position, node in enumerate(nodes):
            assert np.array_equal(found == position, masks[node])
        nodes = sorted([*nodes[:-1], *tree.children[nodes[-1] - tree.leaves].tolist()])


def node_masks(tree: RegionTree) -> list[NDArray[np.bool_]]:
    masks = [tree.superpixels == leaf for leaf in range(tree.leaves)]
    for first, second in tree.children.tolist():
        masks.append(masks[first] | masks[second])
    return masks


def beside_a_background(per_side: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Dots of one pixel, each of which touches nothing but the background."""
    superpixels = np.zeros((2 * per_side + 1, 2 * per_side + 1), np.int64)
    superpixels[1::2, 1::2] = np.arange(1, per_side**2 + 1).reshape(per_side, per_side)
    colours: NDArray[Any] = np.zeros((*superpixels.shape, 3), np.float32)
    colours[1::2, 1::2] = 50 + 40 * np.random.default_rng(0).random((per_side, per_side, 3))
    return superpixels, colours


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_peak_is_little_with_thousands_of_regions_beside_one_background(run_python: RunPython) -> None:
    script = """
import numpy as np
from test_region_tree import beside_a_background
from dynamicseg.region_tree import merge_neighbours

def resident(line):
    with open("/proc/self/status") as status:
        return next(int(text.split()[1]) * 1024 for text in status if text.startswith(line))

merge_neighbours(*beside_a_background(5))
superpixels, colours = beside_a_background(60)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = resident("VmRSS")
tree = merge_neighbours(superpixels, colours)
print(len(tree.children), resident("VmHWM") - before)
"""
    done = run_python(script, PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    if "PermissionError" in done.stderr:
        pytest.skip("the system does not let a process reset its peak memory")
    assert done.returncode == 0, done.stderr
    merges, peak = map(int, done.stdout.split())
    assert merges == 3600
    assert peak < 40e6  # a queue with all pairs that ever were takes 155 MB
