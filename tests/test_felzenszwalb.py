"""Felzenszwalb at several scales: against the same rules in plain Python, and scikit-image where nothing ties."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dynamicseg import _native
from dynamicseg.ops import felzenszwalb as module
from dynamicseg.ops.felzenszwalb import Scale, felzenszwalb

STEPS = ((0, 1), (1, -1), (1, 0), (1, 1))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def plain_felzenszwalb(values: NDArray[np.float32], scale: float, min_size: int) -> NDArray[np.int64]:
    """Of an image that is smoothed already, word by word as the docstring has it."""
    height, width = values.shape[:2]
    pixels = values.astype(np.float64)
    edges = []
    for y, x in np.ndindex(height, width):
        for down, right in STEPS:
            if y + down < height and 0 <= x + right < width:
                difference = pixels[y, x] - pixels[y + down, x + right]
                weight = np.float32(np.sqrt(sum(np.square(difference).tolist())))
                edges.append((weight, y * width + x, (y + down) * width + x + right))
    edges.sort(key=lambda edge: edge[0])  # which keeps the order of edges of the same weight
    segment = list(range(height * width))
    members = {number: [number] for number in segment}
    threshold = dict.fromkeys(segment, np.float32(scale / 255))

    def unite(first: int, second: int) -> None:
        for pixel in members[second]:
            segment[pixel] = first
        members[first] += members.pop(second)

    for weight, pixel, neighbour in edges:
        first, second = segment[pixel], segment[neighbour]
        if first != second and weight < threshold[first] and weight < threshold[second]:
            unite(first, second)
            threshold[first] = np.float32(float(weight) + scale / 255 / len(members[first]))
    for _, pixel, neighbour in edges:
        first, second = segment[pixel], segment[neighbour]
        if first != second and min(len(members[first]), len(members[second])) < min_size:
            unite(first, second)
    return in_order_of_first_pixels(np.array(segment).reshape(height, width))


def in_order_of_first_pixels(labels: NDArray[Any]) -> NDArray[np.int64]:
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].reshape(labels.shape)


def scikit_image(image: NDArray[Any], scale: Scale, sigma: float) -> NDArray[Any]:
    from skimage.segmentation import felzenszwalb as reference

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got image with third dimension")
        found = reference(image, scale=scale.scale, sigma=sigma, min_size=scale.min_size, channel_axis=-1)
    return np.asarray(found)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    bands=st.sampled_from([1, 2, 3, 13]),
    steps=st.sampled_from([2, 8, 255]),
    scale=st.sampled_from([0.0, 1.0, 30.0, 100.0, 300.0, 3000.0]),
    min_size=st.sampled_from([0, 1, 4, 20, 10**6]),
)
def test_ties_are_decided_as_documented(
    seed: int, height: int, width: int, bands: int, steps: int, scale: float, min_size: int
) -> None:
    # Few values: nearly all weights tie.
    random = np.random.default_rng(seed)
    image = (random.integers(0, steps + 1, (height, width, bands)) / steps).astype(np.float32)
    found = felzenszwalb(image, [Scale(scale, min_size)], sigma=0)
    assert found.shape == (1, height, width)
    assert found.dtype == np.int64
    assert np.array_equal(found[0], plain_felzenszwalb(image, scale, min_size))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 25),
    width=st.integers(1, 25),
    bands=st.sampled_from([1, 3, 5]),
    scale=st.sampled_from([1.0, 30.0, 100.0, 300.0, 3000.0]),
    min_size=st.sampled_from([0, 1, 4, 20, 700]),
    sigma=st.sampled_from([0.0, 0.8, 1.5]),
)
def test_without_ties_it_is_scikit_image(
    seed: int, height: int, width: int, bands: int, scale: float, min_size: int, sigma: float
) -> None:
    image = np.random.default_rng(seed).random((height, width, bands)).astype(np.float32)
    smooth = gaussian_filter(image, (sigma, sigma, 0)) if sigma else image  # scikit-image would do it in float64
    assume(not has_ties(smooth))
    expected = scikit_image(smooth, Scale(scale, min_size), 0.0)
    assert np.array_equal(felzenszwalb(image, [Scale(scale, min_size)], sigma=sigma)[0], expected)


def has_ties(values: NDArray[np.float32]) -> bool:
    """Whether weights are the same, or so close that float32 would have them so."""
    height, width = values.shape[:2]
    weights = []
    for down, right in STEPS:
        here = values[: height - down, max(0, -right) : width - max(0, right)].astype(np.float64)
        there = values[down:, max(0, right) : width + min(0, right)].astype(np.float64)
        weights.append(np.sqrt(np.square(here - there).sum(axis=2)).ravel())
    rounded = np.concatenate(weights).astype(np.float32)
    return len(np.unique(rounded)) < len(rounded)


def test_a_photo_is_segmented_as_by_scikit_image() -> None:
    from skimage.data import astronaut
    from skimage.metrics import variation_of_information

    image = (astronaut()[:200, 100:300] / 255).astype(np.float32)
    scales = [Scale(20, 20), Scale(200, 50)]
    for scale, found in zip(scales, felzenszwalb(image, scales, sigma=0.8), strict=True):
        expected = scikit_image(image, scale, 0.8)
        assert abs(found.max() - expected.max()) <= 0.02 * expected.max()
        # Some weights tie or differ in what float32 leaves out.
        assert sum(variation_of_information(found, expected)) < 0.05


def test_scales_are_segmented_as_each_alone_and_with_any_number_of_threads(threads: None) -> None:
    # Larger than what one thread does, with ties.
    random = np.random.default_rng(5)
    image = (random.integers(0, 30, (97, 131, 3)) / 30).astype(np.float32)
    scales = [Scale(10, 0), Scale(300, 5), Scale(300, 50), Scale(5000, 1)]
    found = []
    for count in (1, 2, 3, 8):
        torch.set_num_threads(count)
        found.append(felzenszwalb(image, scales, sigma=0.6))
        assert np.array_equal(found[-1], found[0])
    for together, scale in zip(found[0], scales, strict=True):
        assert np.array_equal(together, felzenszwalb(image, [scale], sigma=0.6)[0])
    assert len({int(segments.max()) for segments in found[0]}) == len(scales)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 23), (23, 1), (2, 2), (70, 80)])
def test_edges_with_wide_numbers_give_the_same(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(1).random((height, width, 3)).astype(np.float32)
    scales = [Scale(50, 3), Scale(500, 10)]
    narrow = felzenszwalb(image, scales, sigma=0.8)
    monkeypatch.setattr(module, "_PIXELS_OF_NARROW_EDGES", 0)
    assert np.array_equal(felzenszwalb(image, scales, sigma=0.8), narrow)


def test_a_constant_image_is_one_segment_and_scale_0_keeps_what_differs_apart() -> None:
    constant = np.full((9, 70, 4), 0.3, np.float32)
    assert not felzenszwalb(constant, [Scale(1, 0), Scale(1000, 20)], sigma=1).any()
    halves = np.zeros((4, 6, 1), np.float32)
    halves[:, 3:] = 1e-6
    assert felzenszwalb(halves, [Scale(0, 0)], sigma=0).max() == 23  # no weight is below 0
    assert felzenszwalb(halves, [Scale(1e-6, 0)], sigma=0).max() == 1


def test_strides_and_other_float_types_make_no_difference() -> None:
    image = np.random.default_rng(2).integers(0, 9, (20, 30, 3)).astype(np.float32) / 8
    expected = felzenszwalb(image, [Scale(100, 3)], sigma=0)
    for same in (image.astype(np.float64), image.astype(np.float16), np.asfortranarray(image)):
        assert np.array_equal(felzenszwalb(same, [Scale(100, 3)], sigma=0), expected)
    assert np.array_equal(
        felzenszwalb(image[::-2, 3:], [Scale(100, 3)], sigma=0),
        felzenszwalb(image[::-2, 3:].copy(), [Scale(100, 3)], sigma=0),
    )


def test_huge_values_are_far_apart_and_no_error() -> None:
    image = np.zeros((6, 8, 2), np.float32)
    image[:, 4:] = np.finfo(np.float32).max
    image[:, :1] = np.finfo(np.float32).min
    found = felzenszwalb(image, [Scale(1000, 0)], sigma=0)[0]
    assert np.array_equal(found, np.broadcast_to([0, 1, 1, 1, 2, 2, 2, 2], (6, 8)))


GOOD = np.zeros((4, 5, 3), np.float32)
NOT_FINITE = GOOD.copy()
NOT_FINITE[1, 2] = np.nan


@pytest.mark.parametrize(
    ("image", "scales", "sigma", "kind", "words"),
    [
        (GOOD[0], [Scale(1, 1)], 0, ValueError, r"image has shape \(5, 3\): pass \[H, W, C\]"),
        (GOOD[:0], [Scale(1, 1)], 0, ValueError, r"image has shape \(0, 5, 3\)"),
        (GOOD.astype(np.uint8), [Scale(1, 1)], 0, TypeError, "image is uint8: pass floating point"),
        (NOT_FINITE, [Scale(1, 1)], 0, ValueError, "NaN or infinite"),
        (GOOD - np.inf, [Scale(1, 1)], 1, ValueError, "NaN or infinite"),
        (GOOD.astype(np.float64) + 1e300, [Scale(1, 1)], 1, ValueError, "NaN or infinite"),
        (GOOD, [], 0, ValueError, "no scales are given"),
        (GOOD, [Scale(-1, 1)], 0, ValueError, "scale wants a finite number, at least 0, not -1"),
        (GOOD, [Scale(1, 1), Scale(float("nan"), 1)], 0, ValueError, "scale wants a finite number"),
        (GOOD, [Scale(1, -1)], 0, ValueError, "min_size wants a whole number, at least 0, not -1"),
        (GOOD, [Scale(1, 1.5)], 0, ValueError, "min_size wants a whole number"),  # type: ignore[arg-type]
        (GOOD, [Scale(1, 1)], -0.1, ValueError, "sigma wants a finite number, at least 0, not -0.1"),
    ],
)
def test_mistakes_are_named(
    image: NDArray[Any], scales: list[Scale], sigma: float, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        felzenszwalb(image, scales, sigma=sigma)


def test_the_native_function_wants_a_size_for_each_scale() -> None:
    with pytest.raises(ValueError, match="as many min_sizes as scales"):
        _native.felzenszwalb(image=0, shape=(0, 0, 0), scales=[1.0], min_sizes=[], wide_edges=False, segments=0)
