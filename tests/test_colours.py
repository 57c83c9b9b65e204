from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage.color import rgb2lab

from dynamicseg.colours import BLACK_TO_WHITE, colours, within_0_and_1

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("size", [(1, 7), (7, 1), (5, 6)])
def test_black_and_white_are_equally_far_apart_whatever_the_bands(bands: int, size: tuple[int, int]) -> None:
    values = np.zeros((*size, bands), np.float32)
    values[-1, -1] = 1
    found = colours(values)
    assert found.dtype == np.float32
    assert found.shape[:2] == size
    assert np.linalg.norm(found[-1, -1] - found[0, 0]) == pytest.approx(BLACK_TO_WHITE, rel=1e-4)


def test_one_and_three_bands_are_cie_lab() -> None:
    rgb = RANDOM.random((4, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(colours(rgb), rgb2lab(rgb.astype(np.float64)), atol=1e-3)
    grey = rgb[..., :1]
    assert np.array_equal(colours(grey), colours(np.repeat(grey, 3, axis=2)))


def test_values_within_0_and_1_stay_as_they_are() -> None:
    for values in (np.zeros((2, 3, 1)), np.ones((2, 3, 1)), RANDOM.random((2, 3, 4)) * 1e-6):
        as_given = values.astype(np.float32)
        assert within_0_and_1(as_given) is as_given


@pytest.mark.parametrize(
    ("low", "high"), [(0, 255), (-1, 1), (-3e38, 3e38), (1e30, 2e30), (-1e-40, 0), (5000, 5000.0625), (-1e-3, 1)]
)
def test_other_values_are_scaled_all_bands_alike(low: float, high: float) -> None:
    values = np.array([[[low, high], [high, low]]], np.float32)
    before = values.copy()
    np.testing.assert_allclose(within_0_and_1(values), [[[0, 1], [1, 0]]], atol=1e-2)
    assert np.array_equal(values, before)


@pytest.mark.parametrize("value", [-7.0, 5.0, 3e38])
def test_a_constant_image_beyond_0_and_1_is_black(value: float) -> None:
    assert not within_0_and_1(np.full((2, 3, 3), value, np.float32)).any()


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_a_constant_image_has_one_colour(value: float) -> None:
    found: np.ndarray[Any, Any] = colours(np.full((3, 4, 3), value, np.float32))
    assert (found == found[0, 0]).all()
