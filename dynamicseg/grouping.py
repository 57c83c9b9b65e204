"""What is known of an image besides the network: superpixels before its training, regions and their number after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg.colours import colours, within_0_and_1
from dynamicseg.consensus import consensus_regions
from dynamicseg.label_count import PixelFeatures, with_label_count
from dynamicseg.region_tree import merge_neighbours
from dynamicseg.superpixels import coarser_segmentations, felzenszwalb_superpixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynamicseg.config import SegmenterConfig


class Grouping:
    """Of one image; what takes longest is done before training, so that a time budget knows of it.

    Args:
        values: ``[H, W, C]``, any C; where they go beyond 0..1, scaled to it.
        config: says what is wanted of it.

    Attributes:
        superpixels: ``[H, W]`` int64, None where the configuration has none.
    """

    def __init__(self, values: NDArray[np.float32], config: SegmenterConfig) -> None:
        self._config = config
        values = within_0_and_1(values)
        self._colours = colours(values)
        self.superpixels: NDArray[np.int64] | None = None
        if config.superpixel_scale is not None:
            self.superpixels = felzenszwalb_superpixels(
                values,
                scale=config.superpixel_scale,
                sigma=config.superpixel_sigma,
                min_size=config.superpixel_min_size,
            )
        if config.regions == "consensus" and self.superpixels is not None:
            self._tree = merge_neighbours(self.superpixels, self._colours)
            self._others = coarser_segmentations(values, self._colours)

    def labels(self, network_labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The labels of the result, ``[H, W]``, from those that the trained network gives, ``[H, W]``."""
        labels = network_labels
        if self._config.regions == "consensus":
            labels = consensus_regions(
                self._tree, [_connected_components(network_labels), *self._others], self._config.area_exponent
            )
        least, most = self._config.min_labels, self._config.max_labels
        if least is None and most is None:
            return labels
        numbers = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        return with_label_count(numbers, PixelFeatures(self._colours, network_labels), least, most)


def _connected_components(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the 4-connected components."""
    from skimage.measure import label

    components: NDArray[Any] = label(labels, connectivity=1, background=-1)
    return components.astype(np.int64)
