"""Regions on which segmentations agree, against naive counting over masks and the enumeration of all cuts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dynamicseg.consensus import _best_cut, consensus_regions, stability
from dynamicseg.region_tree import RegionTree, merge_neighbours


def random_tree(random: np.random.Generator, height: int, width: int, leaves: int) -> RegionTree:
    numbers = random.integers(0, leaves, (height, width))
    superpixels = np.unique(numbers, return_inverse=True)[1].reshape(height, width).astype(np.int64)
    return merge_neighbours(superpixels, random.random((height, width, 3)).astype(np.float32) * 100)


def node_masks(tree: RegionTree) -> list[NDArray[np.bool_]]:
    masks = [tree.superpixels == leaf for leaf in range(tree.leaves)]
    for first, second in tree.children.tolist():
        masks.append(masks[first] | masks[second])
    return masks


def naive_stability(tree: RegionTree, segmentations: list[NDArray[np.int64]]) -> list[float]:
    def best(mask: NDArray[np.bool_], segmentation: NDArray[np.int64]) -> float:
        regions = [segmentation == number for number in np.unique(segmentation)]
        return max(float((mask & region).sum() / (mask | region).sum()) for region in regions)

    return [float(np.mean([best(mask, one) for one in segmentations])) for mask in node_masks(tree)]


def all_cuts(tree: RegionTree, node: int) -> Iterator[frozenset[int]]:
    yield frozenset([node])
    if node >= tree.leaves:
        first, second = tree.children[node - tree.leaves].tolist()
        for one in all_cuts(tree, first):
            for other in all_cuts(tree, second):
                yield one | other


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(1, 9), width=st.integers(1, 9), views=st.integers(1, 9))
def test_stability_is_the_mean_of_the_best_intersection_over_union(
    seed: int, height: int, width: int, views: int
) -> None:
    random = np.random.default_rng(seed)
    tree = random_tree(random, height, width, 12)
    # Numbers with gaps, and regions that cut through superpixels.
    segmentations = [3 * random.integers(0, random.integers(1, 9), (height, width)) for _ in range(views)]
    found = stability(tree, tree.areas(), segmentations)
    np.testing.assert_allclose(found, naive_stability(tree, segmentations), rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), leaves=st.integers(1, 8), ties=st.booleans())
def test_the_best_cut_is_worth_the_most_of_all_and_larger_regions_win_a_tie(seed: int, leaves: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    tree = random_tree(random, 6, 6, leaves)
    count = tree.leaves + len(tree.children)
    worth = random.integers(0, 4, count).astype(np.float64) if ties else random.random(count)
    cuts = list(all_cuts(tree, count - 1))
    most = max(sum(worth[node] for node in sorted(cut)) for cut in cuts)
    best = [cut for cut in cuts if sum(worth[node] for node in sorted(cut)) == pytest.approx(most, abs=1e-12)]
    found = _best_cut(tree, worth)
    assert frozenset(found.tolist()) == min(best, key=len)
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("area_exponent", [0.5, 0.8, 1.0])
def test_regions_that_all_agree_on_are_found(area_exponent: float) -> None:
    truth = np.kron(np.arange(6).reshape(2, 3), np.ones((8, 8), np.int64)).astype(np.int64)
    superpixels = np.kron(np.arange(24).reshape(4, 6), np.ones((4, 4), np.int64)).astype(np.int64)
    colours = np.repeat(truth[..., None] * 15.0, 3, axis=2).astype(np.float32)
    found = consensus_regions(merge_neighbours(superpixels, colours), [truth, 5 - truth], area_exponent)
    pairs = set(zip(found.ravel().tolist(), truth.ravel().tolist(), strict=True))
    assert len(pairs) == found.max() + 1 == 6


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), area_exponent=st.floats(0, 2))
def test_the_result_is_a_partition_into_superpixels_without_gaps_and_twice_the_same(
    seed: int, area_exponent: float
) -> None:
    random = np.random.default_rng(seed)
    tree = random_tree(random, 8, 10, 20)
    segmentations = [random.integers(0, 5, (8, 10)) for _ in range(3)]
    found = consensus_regions(tree, segmentations, area_exponent)
    assert np.array_equal(np.unique(found), np.arange(found.max() + 1))
    for leaf in range(tree.leaves):
        assert len(np.unique(found[tree.superpixels == leaf])) == 1
    assert np.array_equal(found, consensus_regions(tree, segmentations, area_exponent))


def test_a_smaller_area_exponent_gives_no_larger_regions() -> None:
    random = np.random.default_rng(3)
    tree = random_tree(random, 20, 20, 40)
    segmentations = [random.integers(0, 6, (20, 20)) for _ in range(3)]
    counts = [consensus_regions(tree, segmentations, exponent).max() + 1 for exponent in (0.0, 0.5, 1.0, 2.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == tree.leaves
    assert counts[-1] == 1


def test_one_superpixel_is_one_region() -> None:
    tree = merge_neighbours(np.zeros((1, 5), np.int64), np.zeros((1, 5, 2), np.float32))
    assert not consensus_regions(tree, [np.arange(5, dtype=np.int64)[None]], 0.8).any()


def test_a_guide_has_a_vote_where_it_labels() -> None:
    columns = np.repeat(np.arange(4), 3)[None].repeat(4, axis=0)
    tree = merge_neighbours(columns, np.array([0.0, 1, 10, 11], np.float32)[columns][..., None])
    whole, halves = np.zeros_like(columns), columns // 2
    for vote, regions in ((0.0, 1), (0.5, 1), (3.0, 2)):
        found = consensus_regions(tree, [whole], 1.0, halves, vote)
        assert len(np.unique(found)) == regions
    assert np.array_equal(found, halves)
    # Negative numbers, at most of the pixels, are no region that it votes for.
    unknown = np.where(columns == 0, 0, -1)
    assert len(np.unique(consensus_regions(tree, [whole], 1.0, np.where(unknown < 0, -1, 0), 1.0))) == 1


def test_what_is_no_data_is_in_no_region() -> None:
    columns = np.repeat(np.arange(4), 3)[None].repeat(4, axis=0)
    columns[:, 3:6] = -1
    columns[columns > 1] -= 1
    tree = merge_neighbours(columns, np.zeros((*columns.shape, 1), np.float32))
    assert tree.areas().tolist()[:3] == [12, 12, 12]
    assert tree.children[-1].tolist() != [1, 2]  # the island is merged last
    found = consensus_regions(tree, [np.maximum(columns, 0) // 1], 0.8)
    assert (found[:, 3:6] == -1).all()
    assert (found[:, :3] >= 0).all()
