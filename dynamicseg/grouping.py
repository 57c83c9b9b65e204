"""What is known of an image besides the network: superpixels before its training, regions and their number after it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg.colours import colours, within_0_and_1
from dynamicseg.consensus import consensus_regions
from dynamicseg.features.pooling import pooled
from dynamicseg.label_count import PixelFeatures, with_label_count
from dynamicseg.partition import connected_components, partition
from dynamicseg.region_tree import divided_by_features, merge_neighbours
from dynamicseg.superpixels import coarser_segmentations, felzenszwalb_superpixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dynamicseg.config import SegmenterConfig


class Grouping:
    """Of one image; what takes longest is done before training, so that a time budget knows of it.

    Args:
        values: ``[H, W, C]``, any C; where they go beyond 0..1, scaled to it.
        config: says what is wanted of it.
        maps: feature maps of the image, see ``features.backbone.feature_maps``; none: colours decide alone.

    Attributes:
        superpixels: ``[H, W]`` int64, None where the configuration has none.
    """

    def __init__(
        self, values: NDArray[np.float32], config: SegmenterConfig, maps: Sequence[NDArray[np.float32]] = ()
    ) -> None:
        self._config = config
        self._values = values = within_0_and_1(values)
        self.superpixels: NDArray[np.int64] | None = None
        if config.superpixel_scale is not None:
            self.superpixels = felzenszwalb_superpixels(
                values,
                scale=config.superpixel_scale,
                sigma=config.superpixel_sigma,
                min_size=config.superpixel_min_size,
            )
        if config.regions == "consensus" and self.superpixels is not None:
            features = pooled(maps, self.superpixels) if maps else None
            self._tree = merge_neighbours(self.superpixels, self._colours, features)
            others = coarser_segmentations(values, self._colours)
            if features is not None:
                others += divided_by_features(self.superpixels, features)
            # In few bytes, for beside a GPU they go from process to process and back.
            self._others = [_narrow(numbers) for numbers in others]

    @cached_property
    def _colours(self) -> NDArray[np.float32]:
        """Made when first asked for: without regions and bounds on the labels nobody does."""
        return colours(self._values)

    def labels(self, network_labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The labels of the result, ``[H, W]``, from those that the trained network gives, ``[H, W]``."""
        labels = network_labels
        if self._config.regions == "consensus":
            others = [numbers.astype(np.int64) for numbers in self._others]
            labels = consensus_regions(
                self._tree, [connected_components(network_labels), *others], self._config.area_exponent
            )
        least, most = self._config.min_labels, self._config.max_labels
        if least is None and most is None:
            return labels
        numbers = partition(labels).part.reshape(labels.shape)
        return with_label_count(numbers, PixelFeatures(self._colours, network_labels), least, most)


def _narrow(numbers: NDArray[np.int64]) -> NDArray[np.unsignedinteger[Any]]:
    """The same numbers, from 0, in as few bytes as they need."""
    narrow: NDArray[np.unsignedinteger[Any]] = numbers.astype(np.min_scalar_type(numbers.max()))
    return narrow
