"""Feature maps as numbers of superpixels and of pixels: pooled, and reduced to their principal components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array


# Of each map; fewer and more score alike on BSDS500 train.
_COMPONENTS = 12


def pooled(maps: Sequence[NDArray[np.float32]], superpixels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Features of superpixels: of each map the mean over the superpixel, reduced; all maps count alike.

    A map has its values at the centres of its cells; between them it is interpolated, so that a superpixel smaller than
    a cell has its share of the cells around it. Principal components are those of the image, weighted by area.

    Args:
        maps: ``[C, h, w]``, each over the whole image.
        superpixels: ``[H, W]``, numbers from 0 without gaps, n of them; -1 where there is no data.

    Returns:
        ``[n, D]``, the mean over all pixels 0, and the mean square of the length 1, unless all features are the same.
    """
    areas = np.bincount(superpixels[superpixels >= 0]).astype(np.float64)
    parts = []
    for one in maps:
        means = _weights(superpixels, one.shape[1:]) @ one.reshape(len(one), -1).T.astype(np.float64) / areas[:, None]
        parts.append(principal_components(means, areas, _COMPONENTS) / np.sqrt(len(maps)))
    return np.concatenate(parts, axis=1)


def principal_components(
    features: NDArray[np.float64], weights: NDArray[np.float64], components: int
) -> NDArray[np.float64]:
    """``[n, C]`` to ``[n, components or C]``: weighted mean 0, and mean square of the length 1 if none is left out."""
    share = (weights / weights.sum())[:, None]
    centred = features - (share * features).sum(axis=0)
    covariance = (centred * share).T @ centred
    _, directions = np.linalg.eigh(covariance)
    # The sign of an eigenvector is left to chance; only distances are made of these.
    reduced: NDArray[np.float64] = centred @ directions[:, ::-1][:, :components]
    spread = np.trace(covariance)
    # What is left of the mean by rounding, where all features are the same, is no difference.
    is_rounding = spread <= 1e-12 * np.square(features).sum(axis=1).max()
    return np.zeros_like(reduced) if is_rounding else reduced / np.sqrt(spread)


def _weights(superpixels: NDArray[np.int64], size: tuple[int, ...]) -> csr_array:
    """``[n, h * w]``: how much each cell of a map counts in the sum over each superpixel, by bilinear interpolation."""
    from scipy.sparse import coo_array, csr_array

    (top, bottom, down), (left, right, across) = (
        _between(pixels, cells) for pixels, cells in zip(superpixels.shape, size, strict=True)
    )
    inside = superpixels.ravel() >= 0
    rows = superpixels.ravel()[inside]
    sums = csr_array((int(superpixels.max()) + 1, size[0] * size[1]))
    for cell_row, weight_down in ((top, 1 - down), (bottom, down)):
        for cell_column, weight_across in ((left, 1 - across), (right, across)):
            cells = (cell_row[:, None] * size[1] + cell_column).ravel()
            weights = (weight_down[:, None] * weight_across).ravel()
            sums = sums + csr_array(coo_array((weights[inside], (rows, cells[inside])), shape=sums.shape))
    return sums


def _between(pixels: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each pixel in a row, the cells before and after its centre, and its way from one to the other, 0 to 1."""
    place = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    before = np.floor(place).astype(np.int64)
    return before, np.minimum(before + 1, cells - 1), place - before
