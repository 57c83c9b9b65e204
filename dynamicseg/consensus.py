"""Regions on which several segmentations of an image agree.

No single segmentation is right at every scale: one finds the large regions and loses the small, the other breaks the
large ones up. But a region that comes out of many of them, nearly the same each time, is rarely an accident. So each
region of a ``RegionTree`` gets a stability: its best intersection over union with a region of each segmentation, in the
mean. The result is the cut through the tree whose regions are the most stable, weighted by area to the power of
``area_exponent``: with 1 each pixel counts the same, and large regions win; below it, small ones count for more.

The idea is old, of clusterings (Strehl and Ghosh, "Cluster Ensembles", JMLR 2002) and of trees of regions (Guigues,
Cocquerez, Le Men, "Scale-Sets Image Analysis", IJCV 2006); what is agreed upon is chosen here by the measure that
segmentations are judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynamicseg import _native
from dynamicseg.partition import connected_components

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from dynamicseg.region_tree import RegionTree


def consensus_regions(
    tree: RegionTree,
    segmentations: Sequence[NDArray[np.int64]],
    area_exponent: float,
    guide: NDArray[np.int64] | None = None,
    guide_vote: float = 1.0,
) -> NDArray[np.int64]:
    """The regions of ``tree`` that ``segmentations`` agree upon most.

    Args:
        tree: of the regions to choose from.
        segmentations: one or more maps ``[H, W]``; in each, a number from 0 upwards is one region.
        area_exponent: 0 to 2; about 0.6 gives many small regions, 1.1 a few large ones.
        guide: ``[H, W]`` labels of one segmentation more, -1 where any will do; None: there is none.
        guide_vote: what it counts, each of the others being 1; less for a region of which it labels but a part.

    Returns:
        ``[H, W]`` numbers from 0 without gaps, -1 where the tree has no data.
    """
    areas = tree.areas()
    agreement = stability(tree, areas, segmentations)
    if guide is not None:
        vote = guide_vote * tree.sums(np.bincount(tree.superpixels[(guide >= 0) & (tree.superpixels >= 0)])) / areas
        of_guide = stability(tree, areas, [connected_components(guide)])
        agreement = (len(segmentations) * agreement + vote * of_guide) / (len(segmentations) + vote)
    worth = agreement * areas.astype(np.float64) ** area_exponent
    return tree.region_map(_best_cut(tree, worth))


def stability(
    tree: RegionTree, areas: NDArray[np.int64], segmentations: Sequence[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Of each node, the mean over segmentations of its best intersection over union with one of their regions."""
    from scipy.sparse import csr_array, hstack

    overlaps = [_overlaps(tree, segmentation) for segmentation in segmentations]
    first_region = np.cumsum([0, *(overlap.shape[1] for overlap in overlaps)])
    leaves = csr_array(hstack(overlaps, format="csr"))
    leaves.sort_indices()
    region_areas = np.asarray(leaves.sum(axis=0)).ravel()

    arrays = [
        np.ascontiguousarray(array, np.int64)
        for array in (tree.children, areas, first_region, region_areas, leaves.indptr, leaves.indices, leaves.data)
    ]
    children, areas, first_region, region_areas, row_begin, regions, pixels = arrays
    result = np.empty(len(areas))
    _native.stability(
        leaves=tree.leaves,
        children=children.ctypes.data,
        areas=areas.ctypes.data,
        segmentations=len(segmentations),
        first_region=first_region.ctypes.data,
        region_areas=region_areas.ctypes.data,
        row_begin=row_begin.ctypes.data,
        regions=regions.ctypes.data,
        pixels=pixels.ctypes.data,
        stability=result.ctypes.data,
    )
    return result


def _overlaps(tree: RegionTree, segmentation: NDArray[np.int64]) -> csr_array:
    """``[leaves, regions]``: pixels that lie in both."""
    from scipy.sparse import coo_array, csr_array

    shape = (tree.leaves, int(segmentation.max()) + 1)
    valid = tree.superpixels >= 0
    leaves, regions = tree.superpixels[valid], segmentation[valid]
    return csr_array(coo_array((np.ones(len(leaves), np.int64), (leaves, regions)), shape=shape))


def _best_cut(tree: RegionTree, worth: NDArray[np.float64]) -> NDArray[np.int64]:
    """The nodes that cover every leaf once and are worth most together; on a tie, the larger region."""
    best = worth.copy()
    whole = np.ones(len(worth), np.bool_)
    for node, (first, second) in enumerate(tree.children, tree.leaves):
        parts = best[first] + best[second]
        if parts > worth[node]:
            best[node], whole[node] = parts, False
    chosen, open_nodes = [], [len(worth) - 1]
    while open_nodes:
        node = open_nodes.pop()
        if whole[node]:
            chosen.append(node)
        else:
            open_nodes.extend(tree.children[node - tree.leaves].tolist())
    return np.array(sorted(chosen), np.int64)
