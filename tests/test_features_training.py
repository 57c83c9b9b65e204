"""Models for many images that see features of a pretrained network: training, file, prediction."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import dynamicseg as ds
from dynamicseg.cli import main
from dynamicseg.features.efficientnet import EfficientNetLite0
from dynamicseg.inference.contract import METADATA_KEY
from dynamicseg.trained_model import TrainedModel

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::5, ::5])
PHOTOS = [PHOTO, np.ascontiguousarray(PHOTO[::-1])]
OPTIONS: dict[str, Any] = {
    "features": "efficientnet-lite0",
    "n_labels": 6,
    "width": 8,
    "depth": 2,
    "steps": 3,
    "batch_size": 2,
    "crop_size": 32,
    "superpixel_scale": 0.0,
    "device": "cpu",
    "held_out": 0.0,
}


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return ds.train(PHOTOS, coordinates=True, **OPTIONS)


def test_the_description_names_the_backbone_and_its_weights(model: TrainedModel) -> None:
    described = model.description
    assert described.backbone is not None
    assert described.backbone.source == "efficientnet-lite0"
    assert described.backbone.sha256 == EfficientNetLite0.load().facts["sha256"]
    assert described.network.feature_planes == 8
    assert described.receptive_field is None  # any pixel may have influence


def test_the_file_holds_the_projection_but_not_the_backbone(model: TrainedModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size < 100_000
    assert {name for name in load_file(tmp_path / "m.safetensors") if name.startswith("projection.")} == {
        f"projection.layers.{number}.{kind}" for number in (0, 1) for kind in ("weight", "bias")
    }
    loaded = TrainedModel.load(tmp_path / "m.safetensors")
    assert loaded.description == model.description
    np.testing.assert_array_equal(loaded.predict_array(PHOTO), model.predict_array(PHOTO))
    found = ds.load(tmp_path / "m.safetensors").predict(PHOTO[:, :50])
    np.testing.assert_array_equal(found.labels, model.predict_array(PHOTO[:, :50]))


def test_the_same_training_gives_the_same_model(model: TrainedModel) -> None:
    again = ds.train(PHOTOS, coordinates=True, **OPTIONS)
    np.testing.assert_array_equal(again.predict_array(PHOTO), model.predict_array(PHOTO))
    without = ds.train(PHOTOS, coordinates=True, **{**OPTIONS, "features": None})
    assert without.description.backbone is None


def test_crops_see_the_features_of_their_place_in_the_whole_image(model: TrainedModel) -> None:
    from dynamicseg.training.config import configure_training
    from dynamicseg.training.crops import random_batch
    from dynamicseg.training.images import ImageSet

    features = model.network.features
    assert features is not None
    config = configure_training(**OPTIONS)
    batch = random_batch(ImageSet(PHOTOS), [0, 1], config, (1, 2), features=features)
    assert batch.planes.shape == (2, 3 + 8, 32, 32)
    whole = [np.concatenate([photo / 255.0, features.of_image(photo).permute(1, 2, 0)], axis=2) for photo in PHOTOS]
    for crop in batch.planes.permute(0, 2, 3, 1).numpy():
        assert any(
            np.allclose(seen[top : top + 32, left : left + 32], part, atol=1e-6)
            for seen in whole
            for part in (crop, crop[:, ::-1])
            for top in range(seen.shape[0] - 31)
            for left in range(seen.shape[1] - 31)
            if np.allclose(seen[top, left, :3], part[0, 0, :3], atol=1e-6)
        )


def test_a_part_of_the_planes_is_that_of_all_of_them(model: TrainedModel) -> None:
    features = model.network.features
    assert features is not None
    height, width = PHOTOS[0].shape[:2]
    whole = features.of_image(PHOTOS[0])
    for top in (0, 7, 8, 15, 17, height - 32):
        for left in (0, 9, 16, width - 32):
            part = slice(top, top + 32), slice(left, left + 32)
            found = features.of_image(PHOTOS[0], part)
            torch.testing.assert_close(found, whole[:, part[0], part[1]], rtol=1e-5, atol=1e-6)


def test_a_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    def stop(record: Any) -> None:
        if record["step"] == 2:
            raise KeyboardInterrupt

    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        ds.train(PHOTOS, checkpoint=path, on_step=stop, **OPTIONS)
    carried_on = ds.train(PHOTOS, checkpoint=path, resume=True, **OPTIONS)
    whole = ds.train(PHOTOS, **OPTIONS)
    np.testing.assert_array_equal(carried_on.predict_array(PHOTO), whole.predict_array(PHOTO))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sha256": "0" * 64},
            r"trained with features of efficientnet-lite0 with other weights \(sha256 00000000",
        ),
        ({"sha256": "x"}, "its description is damaged: backbone.sha256"),
        ({"source": "resnet"}, "its description is damaged: backbone.source"),
        (None, "a backbone belongs to planes of features"),
    ],
)
def test_a_file_for_another_backbone_is_refused(
    model: TrainedModel, tmp_path: Path, change: dict[str, str] | None, message: str
) -> None:
    path = tmp_path / "m.safetensors"
    model.save(path)
    with safe_open(path, "pt") as content:
        described = json.loads(content.metadata()[METADATA_KEY])
    described["backbone"] = None if change is None else {**described["backbone"], **change}
    save_file(load_file(path), path, {METADATA_KEY: json.dumps(described)})
    with pytest.raises(ValueError, match=message) as error:
        TrainedModel.load(path)
    assert "\n" not in str(error.value)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ValueError, match="the images have 5 bands: leave features out"):
        ds.train([np.zeros((40, 40, 5), np.uint8)], **OPTIONS)
    with pytest.raises(TypeError, match="no option is named 'feature_planes'"):
        ds.train(PHOTOS, feature_planes=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "x.png", "-o", "out", "--features", "effnet"], "did you mean efficientnet-lite0?"),
        (["segment", "x.png", "-o", "out", "--features", "none.onnx"], "none.onnx: no such file"),
        (
            ["segment", "x.png", "-o", "out", "--feature-outputs", "a,b"],
            "--feature-outputs is of no use",
        ),
        (
            ["segment", "x.png", "-o", "out", "--features", "m.onnx", "--feature-mean", "1;2;3"],
            "--feature-mean 1;2;3: wants three numbers with commas",
        ),
        (["train", "x.png", "-o", "m.safetensors", "--features", "m.onnx"], "m.onnx: no such file"),
        (
            ["train", "x.png", "-o", "m.safetensors", "--features", "efficientnet-lite0", "--feature-mean", "1,1,1"],
            "--feature-mean is for ONNX files",
        ),
        (
            ["train", "x.png", "-o", "m.safetensors", "--feature-outputs", "a"],
            "--feature-outputs is of no use without",
        ),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
    finally:
        signal.signal(signal.SIGTERM, terminated)
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    assert message in said.err
    assert not list(tmp_path.iterdir())
