"""What is known of an image besides the network: superpixels before its training, regions and their number after it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg.colours import colours, within_0_and_1
from dynamicseg.consensus import consensus_regions
from dynamicseg.features.pooling import pooled
from dynamicseg.guidance import NO_GUIDANCE, Guidance
from dynamicseg.label_count import PixelFeatures, counted_labels
from dynamicseg.partition import connected_components, partition
from dynamicseg.region_tree import divided_by_features, merge_neighbours
from dynamicseg.scribble_regions import grown_labels, split_by_scribbles
from dynamicseg.superpixels import coarser_segmentations, felzenszwalb_superpixels, split_by_guide
from dynamicseg.terms import NO_LABEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dynamicseg.config import SegmenterConfig


# What a guide of weight 1 counts in the consensus, where each other segmentation counts 1. On BSDS500 train half of it
# gains the most from Felzenszwalb's regions, which alone are far worse than the result without them.
_GUIDE_VOTE = 0.5


class Grouping:
    """Of one image; what takes longest is done before training, so that a time budget knows of it.

    Args:
        values: ``[H, W, C]``, any C; where they go beyond 0..1, scaled to it.
        config: says what is wanted of it.
        guidance: what else is told of the image, at the size of ``values``.
        maps: feature maps of the image, see ``features.backbone.feature_maps``; none: colours decide alone.

    Attributes:
        superpixels: ``[H, W]`` int64, -1 where there is no data; None where the configuration has none.
        guidance: as given.
    """

    def __init__(
        self,
        values: NDArray[np.float32],
        config: SegmenterConfig,
        guidance: Guidance = NO_GUIDANCE,
        maps: Sequence[NDArray[np.float32]] = (),
    ) -> None:
        self._config = config
        self.guidance = guidance
        self._values = values = within_0_and_1(values)
        self.superpixels: NDArray[np.int64] | None = None
        if config.superpixel_scale is not None:
            superpixels = felzenszwalb_superpixels(
                values,
                scale=config.superpixel_scale,
                sigma=config.superpixel_sigma,
                min_size=config.superpixel_min_size,
            )
            if guidance.guide is not None:
                superpixels = split_by_guide(superpixels, guidance.guide, min_size=config.superpixel_min_size)
            if guidance.mask is not None:
                superpixels = _numbered_within(guidance.mask, superpixels)
            if guidance.scribbles is not None:
                superpixels = split_by_scribbles(superpixels, guidance.scribbles)
            self.superpixels = superpixels
        if config.regions == "consensus" and self.superpixels is not None:
            features = pooled(maps, self.superpixels) if maps else None
            self._tree = merge_neighbours(self.superpixels, self.colours, features)
            others = coarser_segmentations(values, self.colours)
            if features is not None:
                others += divided_by_features(self.superpixels, features)
            # In few bytes, for beside a GPU they go from process to process and back.
            self._others = [_narrow(numbers) for numbers in others]

    @cached_property
    def colours(self) -> NDArray[np.float32]:
        """``[H, W, D]``, made when first asked for: without regions, bounds on the labels and floor nobody does."""
        return colours(self._values)

    def labels(self, network_labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The labels of the result, ``[H, W]``, from those that the trained network gives, ``[H, W]``.

        Where there are scribbles, a label drawn has its position among them, and all others come after. -1 where there
        is no data.
        """
        guidance, drawn = self.guidance, len(self.guidance.drawn)
        if self._config.regions == "consensus":
            labels = self._regions(network_labels)
        else:
            labels = network_labels
        if guidance.scribbles is not None:
            labels = np.where(guidance.scribbles >= 0, guidance.scribbles, labels)
        if guidance.mask is not None:
            labels = np.where(guidance.mask, labels, NO_LABEL)
        least, most = self._config.min_labels, self._config.max_labels
        if least is None and most is None:
            return labels
        features = PixelFeatures(self.colours, network_labels)
        return counted_labels(labels, guidance.scribbles, drawn, features, least, most)

    def _regions(self, network_labels: NDArray[np.int64]) -> NDArray[np.int64]:
        guidance, drawn = self.guidance, len(self.guidance.drawn)
        views = [connected_components(network_labels), *(numbers.astype(np.int64) for numbers in self._others)]
        regions = consensus_regions(
            self._tree, views, self._config.area_exponent, guidance.guide, _GUIDE_VOTE * self._config.guide_weight
        )
        if guidance.scribbles is None:
            return regions
        if guidance.guide is not None:
            views.append(connected_components(guidance.guide))
        grown = grown_labels(
            self._tree.superpixels,
            guidance.scribbles,
            self.colours,
            views,
            network_labels,
            everywhere=self._config.max_labels == drawn,
        )
        return np.where(grown >= 0, grown, regions + drawn)


def _numbered_within(mask: NDArray[np.bool_], superpixels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Without gaps among the pixels that are data, and -1 elsewhere."""
    result = np.full(superpixels.shape, NO_LABEL, np.int64)
    result[mask] = partition(superpixels[mask]).part
    return result


def _narrow(numbers: NDArray[np.int64]) -> NDArray[np.unsignedinteger[Any]]:
    """The same numbers, from 0, in as few bytes as they need."""
    narrow: NDArray[np.unsignedinteger[Any]] = numbers.astype(np.min_scalar_type(numbers.max()))
    return narrow
