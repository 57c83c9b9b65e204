from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import dynamicseg as ds
from dynamicseg.segmenter import Segmenter

QUICK: dict[str, Any] = {"max_steps": 3}
PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])


def test_labels_are_numbered_without_gaps_by_area() -> None:
    photo = skimage.data.chelsea()[::3, ::3]
    segmentation = ds.segment(photo, **QUICK)
    assert segmentation.labels.dtype == np.int32
    assert segmentation.labels.shape == photo.shape[:2]
    areas = np.bincount(segmentation.labels.ravel())
    assert len(areas) == segmentation.n_labels > 1
    assert (areas > 0).all()
    assert (np.diff(areas) <= 0).all()
    assert len(segmentation.history) == 3
    assert set(segmentation.timings) == {"read", "group", "train", "regions", "total"}


def test_the_labels_of_paper_are_those_of_the_network() -> None:
    segmentation = ds.segment(PHOTO, preset="paper", **QUICK)
    assert segmentation.n_labels == segmentation.history[-1]["n_labels"]


def test_a_path_a_pil_image_and_an_array_give_the_same_labels(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(PHOTO).save(path)
    from_array = ds.segment(PHOTO, **QUICK)
    for image in (path, str(path), Image.fromarray(PHOTO), PHOTO[:, ::1]):
        assert np.array_equal(ds.segment(image, **QUICK).labels, from_array.labels)
    assert ds.segment(path, **QUICK).source == str(path)
    assert from_array.source is None


@pytest.mark.parametrize(
    "image",
    [
        PHOTO[..., 0],
        PHOTO[..., :1],
        PHOTO.astype(np.uint16) * 257,
        (PHOTO / 255).astype(np.float32),
        PHOTO / 255,
        np.concatenate([PHOTO] * 4, axis=2),
        PHOTO[::-1, ::-2],
    ],
    ids=["grey", "one band", "uint16", "float32", "float64", "12 bands", "strided"],
)
def test_any_image_array_is_taken(image: np.ndarray[Any, Any]) -> None:
    before = image.copy()
    segmentation = ds.segment(image, **QUICK)
    assert segmentation.labels.shape == image.shape[:2]
    assert np.array_equal(image, before)


def test_16_bits_and_floats_of_the_same_values_are_the_same_image() -> None:
    eight = ds.segment(PHOTO, **QUICK).history
    sixteen = ds.segment(PHOTO.astype(np.uint16) * 257, **QUICK).history
    floats = ds.segment((PHOTO / 255).astype(np.float32), **QUICK).history
    for history in (sixteen, floats):
        assert history[0]["loss"] == pytest.approx(eight[0]["loss"], rel=1e-5)


def test_a_band_axis_can_be_named() -> None:
    bands_first = np.moveaxis(PHOTO, 2, 0)
    assert np.array_equal(ds.segment(bands_first, channel_axis=0, **QUICK).labels, ds.segment(PHOTO, **QUICK).labels)


def test_one_pixel_is_refused_and_two_are_enough() -> None:
    with pytest.raises(ValueError, match=r"1x1 pixel cannot be segmented: .* at least 2 pixels"):
        ds.segment(np.full((1, 1, 3), 200, np.uint8))
    assert ds.segment(np.array([[10, 200]], np.uint8), **QUICK).labels.shape == (1, 2)


def test_options_reach_the_training() -> None:
    segmentation = Segmenter(weighting="scf", mu=20, seed=4, **QUICK).segment(PHOTO)
    assert segmentation.history[0]["weight"] == pytest.approx(20 / segmentation.history[0]["n_labels"])
    assert (segmentation.config.seed, segmentation.config.device) == (4, "cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_precision_is_the_presets_own_unless_auto_is_asked_for(
    has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bfloat16)
    best = "bfloat16" if has_bfloat16 else "float32"
    assert Segmenter("paper", device="cpu").config.precision == "float32"
    assert Segmenter("fast", device="cpu").config.precision == best
    for preset in ("paper", "fast"):
        asked_for = Segmenter(preset, device="cpu", precision="auto").config
        assert (asked_for.precision, asked_for.loss) == (best, "fused")
        assert Segmenter(preset, device="cpu", precision="float32").config.precision == "float32"


def test_the_same_seed_gives_the_same_segmentation() -> None:
    segmenter = Segmenter(seed=1, **QUICK)
    assert np.array_equal(segmenter.segment(PHOTO).labels, segmenter.segment(PHOTO).labels)


def test_progress_is_told() -> None:
    steps = []
    ds.segment(PHOTO, preset="paper", on_step=lambda record: steps.append(record["step"]), **QUICK)
    assert steps == [1, 2, 3]


def test_nan_is_refused_with_its_place() -> None:
    image = np.zeros((8, 9), np.float32)
    image[2, 3] = np.nan
    with pytest.raises(ValueError, match=r"(?i)nan") as caught:
        ds.segment(image)
    assert "row 2, column 3" in str(caught.value)


def test_an_image_that_does_not_fit_into_memory_is_refused_with_a_size_that_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dynamicseg import training_memory
    from dynamicseg.resizing import size_within

    monkeypatch.setattr(training_memory, "available_memory", lambda: 10**10)
    huge = np.broadcast_to(np.uint8(0), (200_000, 100_000, 3))
    refused = r"100000x200000 pixels takes about [\d.]+ GB, .* 10\.0 GB .*--max-side (\d+) \(in Python max_side=\1\)"
    with pytest.raises(MemoryError, match=refused) as caught:
        ds.segment(huge, device="cpu")
    fitting = int(re.findall(r"\d+", str(caught.value))[-1])
    config = Segmenter(device="cpu").config
    for max_side, fits in ((fitting, True), (int(fitting * 1.1), False)):
        size = size_within(huge.shape[0], huge.shape[1], max_side)
        assert (training_memory.training_bytes((*size, 3), config) <= 10**10) == fits


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"device cuda: PyTorch .* finds no CUDA GPU here; use cpu or auto"):
        Segmenter(device="cuda")


def test_the_public_names_are_there() -> None:
    assert set(ds.__all__) <= set(dir(ds))
    for name in ds.__all__:
        assert getattr(ds, name) is not None
    assert ds.ops.dynamic_loss is not None
    assert ds.reference.dynamic_loss is not None
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        ds.segmnt  # noqa: B018


def test_the_fast_preset_keeps_labels_consistent_within_superpixels() -> None:
    from dynamicseg.superpixels import felzenszwalb_superpixels

    segmentation = ds.segment(PHOTO)
    assert (segmentation.config.preset, segmentation.config.weighting) == ("fast", "scf")
    config = segmentation.config
    assert config.superpixel_scale is not None
    superpixels = felzenszwalb_superpixels(
        (PHOTO / 255).astype(np.float32),
        scale=config.superpixel_scale,
        sigma=config.superpixel_sigma,
        min_size=config.superpixel_min_size,
    )
    for number in range(superpixels.max() + 1):
        assert len(np.unique(segmentation.labels[superpixels == number])) == 1
