"""Predicting in tiles: the labels of the whole image, whatever the tile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_trained_model import a_model

from dynamicseg import training_memory
from dynamicseg.inference import onnx_model
from dynamicseg.inference.onnx_file import read_onnx
from dynamicseg.inference.onnx_model import OnnxModel
from dynamicseg.inference.tiles import spans
from dynamicseg.predict import Predictor, load

IMAGE = np.random.default_rng(3).integers(0, 256, (61, 83, 3), np.uint8)


@given(st.integers(1, 400), st.integers(0, 20), st.sampled_from([1, 2, 4]), st.integers(0, 60))
def test_tiles_cover_an_axis_and_every_kept_label_has_its_surroundings(
    length: int, radius: int, stride: int, more: int
) -> None:
    tile = -(-(2 * radius + 2 * stride) // stride) * stride + more // stride * stride
    found = spans(length, tile, radius, stride)
    assert [span.first for span in found] == [0, *(span.last for span in found[:-1])]
    assert found[-1].last == length
    for span in found:
        assert 0 <= span.start <= span.first < span.last <= span.stop <= length
        assert span.start % stride == 0
        assert span.stop - span.start <= tile
        assert span.start == 0 or span.first - span.start >= radius
        assert span.stop == length or span.stop - span.last >= radius
    if stride == 1 and length >= tile:
        assert {span.stop - span.start for span in found} == {tile}


@pytest.fixture
def exact(tmp_path: Path) -> Predictor:
    return load(onnx_models.save(tmp_path / "m.onnx", depth=3))


@pytest.mark.parametrize("tile", [8, 9, 16, 33, 60, 61, 82])
def test_labels_are_those_of_the_whole_image_to_its_very_edge(tile: int, exact: Predictor) -> None:
    whole = exact.predict(IMAGE)
    np.testing.assert_array_equal(whole.labels, onnx_models.expected_labels(IMAGE, depth=3))
    assert len(np.unique(whole.labels)) >= 3
    tiled = exact.predict(IMAGE, tile=tile)
    np.testing.assert_array_equal(tiled.labels, whole.labels)
    assert (whole.tile, tiled.tile) == (None, tile)
    assert tiled.metadata()["tile"] == tile


@pytest.mark.parametrize("too_little", [1, 2])
def test_an_overlap_below_the_receptive_field_would_show(
    too_little: int, exact: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = exact.predict(IMAGE).labels
    monkeypatch.setitem(exact.running.contract.__dict__, "radius", 3 - too_little)
    assert (exact.predict(IMAGE, tile=16).labels != whole).any()


@pytest.mark.parametrize("options", [{}, {"dilation_growth": 2, "depth": 3}, {"stride": 2}, {"stride": 4, "depth": 3}])
def test_every_architecture_goes_through_in_tiles(options: dict[str, Any], tmp_path: Path) -> None:
    model = a_model(**options)
    for name, parameter in model.network.named_parameters():
        # Whole numbers, so that sums are exact however a convolution library orders them.
        parameter.data = (parameter * 8).round() if "bias" not in name else torch.zeros_like(parameter)
    model.save(tmp_path / "m.safetensors")
    predictor = load(tmp_path / "m.safetensors")
    whole = predictor.predict(IMAGE).labels
    for tile in (48, 61):
        # Of responses that differ in their last bit another one may be the largest.
        assert (predictor.predict(IMAGE, tile=tile).labels == whole).mean() > 0.999


def test_tiles_are_counted_as_they_are_done(exact: Predictor) -> None:
    told: list[tuple[int, int]] = []
    exact.predict(IMAGE, tile=40, on_tile=lambda *counts: told.append(counts))
    assert told == [(k, 6) for k in range(1, 7)]


@pytest.mark.parametrize("size", [(61, 83), (200, 100), (24, 83), (16, 16), (20, 200)])
def test_models_of_fixed_size_go_over_larger_images(size: tuple[int, int], tmp_path: Path) -> None:
    predictor = load(onnx_models.save(tmp_path / "m.onnx", size=(24, 32), batch=2))
    image = np.random.default_rng(4).integers(0, 256, (*size, 3), np.uint8)
    found, expected = predictor.predict(image).labels, onnx_models.expected_labels(image)
    rows, columns = (slice(None) if n >= m else slice(n - 2) for n, m in zip(size, (24, 32), strict=True))
    # Where the image is smaller than the model, its edge is repeated, which the labels beside the edge see.
    np.testing.assert_array_equal(found[rows, columns], expected[rows, columns])


def test_memory_decides_where_no_tile_is_named(exact: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = exact.predict(IMAGE)
    assert expected.tile is None
    per_pixel = exact.running.bytes_per_pixel
    monkeypatch.setattr(exact.running, "free_memory", lambda: 2 * 70 * 70 * per_pixel)
    tiled = exact.predict(IMAGE)
    assert tiled.tile == 64
    np.testing.assert_array_equal(tiled.labels, expected.labels)
    monkeypatch.setattr(exact.running, "free_memory", lambda: 1000)
    with pytest.raises(MemoryError, match="not even a tile of 8 pixels a side fits"):
        exact.predict(IMAGE)


def test_a_model_that_knows_where_a_pixel_lies_has_no_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_model(coordinates=True).save(tmp_path / "m.safetensors")
    predictor = load(tmp_path / "m.safetensors")
    assert predictor.predict(IMAGE).tile is None
    with pytest.raises(ValueError, match=r"knows where in the image a pixel lies.*leave tile out"):
        predictor.predict(IMAGE, tile=64)
    monkeypatch.setattr(predictor.running, "free_memory", lambda: 1000)
    with pytest.raises(MemoryError, match=r"83x61 pixels take about .* GB, and this model knows where"):
        predictor.predict(IMAGE)


def test_the_memory_is_that_of_the_device_that_predicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_model().save(tmp_path / "m.safetensors")
    predictor = load(tmp_path / "m.safetensors", device="cpu")
    asked: list[torch.device] = []

    def mem_get_info(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return 5000, 10**6

    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    monkeypatch.setattr(training_memory, "available_memory", lambda: 10**12)
    assert predictor.running.free_memory() == 10**12
    monkeypatch.setattr(predictor.running, "_device", torch.device("cuda:1"))
    assert predictor.running.free_memory() == 5400
    assert asked == [torch.device("cuda:1")]


def test_onnx_runtime_on_a_gpu_has_the_memory_of_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gpu:
        def __init__(self, index: int) -> None:
            self.index = index

        def free_memory(self) -> int:
            return 1000 + self.index

    monkeypatch.setattr(onnx_model, "Gpu", Gpu)
    monkeypatch.setattr(onnx_model, "available_memory", lambda: 10**12)
    file = read_onnx(onnx_models.save(tmp_path / "m.onnx"))
    assert OnnxModel(file, None, {"device": "cuda:2"}).free_memory() == 1002
    assert OnnxModel(file, None, {"device": "cpu"}).free_memory() == 10**12


def test_a_fixed_size_that_does_not_fit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = load(onnx_models.save(tmp_path / "m.onnx", size=(61, 83), batch=2))
    monkeypatch.setattr(predictor.running, "free_memory", lambda: 1000)
    with pytest.raises(MemoryError, match=r"takes 2 images of 83x61 pixels at once, about .* free on cpu"):
        predictor.predict(IMAGE)


@pytest.mark.parametrize(
    ("tile", "error", "words"),
    [
        (7, ValueError, "tile is 7 pixels; this model looks 3 pixels far .* at least 8"),
        (2.5, TypeError, "whole number"),
    ],
)
def test_tiles_that_are_none(tile: Any, error: type[Exception], words: str, exact: Predictor) -> None:
    with pytest.raises(error, match=words):
        exact.predict(IMAGE, tile=tile)


def test_a_fixed_view_is_not_filled(tmp_path: Path) -> None:
    predictor = load(onnx_models.save(tmp_path / "m.onnx", size=(24, 32), coordinates=True))
    assert predictor.predict(IMAGE[:24, :32]).tile is None
    for image in (IMAGE[:20, :32], IMAGE):
        with pytest.raises(ValueError, match="the model takes 32x24 of the whole view: make the image so large"):
            predictor.predict(image)


def test_a_fixed_size_is_its_own_tile(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes images of 32x24 pixels: leave tile out"):
        load(onnx_models.save(tmp_path / "m.onnx", size=(24, 32))).predict(IMAGE, tile=16)
    tiny = load(onnx_models.save(tmp_path / "tiny.onnx", size=(5, 32)))
    with pytest.raises(ValueError, match="the model's size is 5 pixels"):
        tiny.predict(IMAGE)
