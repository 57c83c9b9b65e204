from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import dynamicseg as ds
from dynamicseg import reference
from dynamicseg.model import SegmentationNetwork
from dynamicseg.model_description import NetworkOptions
from dynamicseg.training import configure_training, crops, loop, statistics
from dynamicseg.training.images import ImageSet, listed
from dynamicseg.training.train import train_on, usable

Pixels = NDArray[np.uint8]

SMALL: dict[str, Any] = {
    "n_labels": 6,
    "width": 8,
    "stride": 1,
    "superpixel_scale": 0.0,
    "depth": 2,
    "steps": 12,
    "batch_size": 2,
    "crop_size": 32,
    "precision": "float32",
    "device": "cpu",
}


def halves(count: int = 6, height: int = 40, width: int = 56, seed: int = 0) -> list[Pixels]:
    """Photos of a bright half above a dark one, with noise."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        image = np.full((height, width, 3), 200.0)
        image[int(random.integers(height // 3, 2 * height // 3)) :] = (40, 90, 60)
        images.append(np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8))
    return images


def first_weights(model: ds.TrainedModel) -> torch.Tensor:
    weights: torch.Tensor = model.network.state_dict()["layers.0.weight"]
    return weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, image in enumerate(halves()):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return tmp_path


# ---- the whole of it -------------------------------------------------------------------------------------------------


def test_labels_mean_the_same_in_every_image() -> None:
    model = ds.train(halves(), **{**SMALL, "n_labels": 4, "steps": 40})
    maps = [model.predict_array(image) for image in halves(3, seed=5)]
    bright = {int(np.bincount(labels[:10].ravel()).argmax()) for labels in maps}
    dark = {int(np.bincount(labels[-10:].ravel()).argmax()) for labels in maps}
    assert len(bright) == len(dark) == 1
    assert bright != dark


def test_the_description_says_what_was_done() -> None:
    seen: list[dict[str, Any]] = []
    model = ds.train(halves(), on_step=seen.append, seed=4, **SMALL)  # type: ignore[arg-type]
    description = model.description
    assert [record["step"] for record in seen] == list(range(1, 13))
    assert description.training["seed"] == 4
    assert description.training["steps_done"] == 12
    assert description.training["stopped"] == "steps"
    assert description.training["images"] == 6
    assert description.network.order == "norm_relu"
    assert description.created_with["torch"] == torch.__version__
    assert 1 <= description.label_count <= 6
    assert not model.network.training


@pytest.mark.parametrize(
    "options",
    [
        {"order": "relu_norm"},
        {"stride": 2, "superpixel_scale": 20.0},
        {"stride": 4, "depth": 3, "dilation_growth": 2, "crop_size": 37, "superpixel_scale": 20.0},
        {"coordinates": True, "stride": 2},
        {"weighting": "fsf", "precision": "bfloat16", "superpixel_scale": 20.0},
        {"held_out": 0.0, "mirror": False, "weighting": "fixed"},
    ],
)
def test_every_option_trains(options: dict[str, Any]) -> None:
    model = ds.train(halves(), **{**SMALL, "steps": 4, **options})
    assert model.predict_array(halves(1)[0]).max() < model.description.label_count


def test_images_of_any_size_and_number_of_bands() -> None:
    random = np.random.default_rng(0)
    sizes = ((9, 70), (50, 3), (64, 64))
    images = [random.integers(0, 2**16, (height, width, 5), np.uint16) for height, width in sizes]
    model = ds.train(images, **SMALL)
    assert model.description.bands == 5
    assert model.predict_array(images[0]).shape == (9, 70)
    single = ds.train(images[2][..., 0], **{**SMALL, "steps": 3})
    assert single.description.bands == 1


def test_folders_patterns_and_single_files(folder: Path) -> None:
    paths, problems = listed([folder, str(folder / "0.png"), str(folder / "[12].png"), str(folder / "nothing")])
    assert [path.name for path in paths] == [f"{number}.png" for number in range(6)]
    assert problems == [f"{folder / 'nothing'}: no such file or folder"]
    assert len(listed(folder / "3.png")[0]) == 1
    with pytest.raises(ValueError, match="no such file or folder"):
        ds.train([folder, folder / "nothing"], **SMALL)
    with pytest.raises(ValueError, match="there is no image to train on"):
        ds.train([], **SMALL)


def test_images_of_another_kind_are_named(folder: Path) -> None:
    Image.fromarray(halves(1)[0][..., 0]).save(folder / "9.png")
    with pytest.raises(ValueError, match=r"9\.png: has 1 band, those before it 3: train on images of one kind"):
        ds.train(folder, **{**SMALL, "steps": 40})
    failures: list[str] = []
    paths, _ = listed(folder)
    training = train_on(paths, usable(configure_training(**SMALL)), on_failure=failures.append)
    assert len(failures) == 1
    assert training.model.description.bands == 3


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"steps": 0}, ValueError, "steps wants at least 1|steps wants .* at least 1, not 0"),
        ({"n_labels": 5000}, ValueError, "n_labels wants less than or equal to 4096, not 5000"),
        ({"stride": 3}, ValueError, "stride wants 1, 2 or 4, not 3"),
        ({"weighting": "other"}, ValueError, "weighting wants"),
        ({"depth": 20, "dilation_growth": 4}, ValueError, "choose less of either"),
        ({"device": "tpu"}, ValueError, "device wants auto, cpu, cuda or cuda:N"),
        ({"stepps": 3}, TypeError, "no option is named 'stepps'"),
        ({"held_out": 1.0}, ValueError, "held_out wants less than 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        ds.train(halves(1), **options)
    assert "\n" not in str(caught.value)


def test_continuity_has_weight_one_while_all_labels_live() -> None:
    for weighting in ("scf", "fsf"):
        assert configure_training(weighting=weighting, n_labels=7).mu == 7
    assert configure_training(weighting="fixed", n_labels=7).mu == 1
    assert configure_training(mu=3.5).mu == 3.5


def test_a_loss_that_is_not_finite_is_said() -> None:
    with pytest.raises(ValueError, match="the loss is nan at step"):
        ds.train([image.astype(np.float32) * 1e36 for image in halves()], **{**SMALL, "learning_rate": 1e30})


# ---- the step --------------------------------------------------------------------------------------------------------


def test_a_step_is_one_of_plain_pytorch() -> None:
    config = configure_training(**{**SMALL, "batch_size": 3})
    images = ImageSet(halves())
    progress = loop.begin(config, 3)
    plain = loop.begin(config, 3).network
    batch = crops.random_batch(images, range(6), config, (0, 1))
    output = loop._step(progress, batch, config, 0.1)
    expected = reference.dynamic_loss(plain(batch.planes), weighting="scf", mu=6.0)
    torch.testing.assert_close(output.loss, expected.loss)
    trained = list(plain.parameters())[:-2]  # all but scale and shift of the last batch norm
    grads = torch.autograd.grad(expected.loss.mean(), trained)
    ours = progress.optimizer.param_groups[0]["params"]
    assert len(ours) == len(trained) == len(list(plain.parameters())) - 2
    for parameter, before, grad in zip(ours, trained, grads, strict=True):
        torch.testing.assert_close(parameter, before - 0.1 * grad, rtol=1e-4, atol=1e-6)
    assert progress.network.last_norm.weight.tolist() == [1.0] * 6


def test_the_learning_rate_falls_to_zero() -> None:
    rates: list[float] = []
    ds.train(halves(), on_step=lambda record: rates.append(record["learning_rate"]), **{**SMALL, "steps": 20})
    assert rates == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi * step / 20)) for step in range(20)])


# ---- crops -----------------------------------------------------------------------------------------------------------


def test_crops_are_parts_of_images_with_their_coordinates() -> None:
    rows, columns = np.indices((50, 70), dtype=np.uint8)
    image = np.stack([rows, columns, np.zeros_like(rows)], axis=2)
    config = configure_training(**{**SMALL, "coordinates": True, "crop_size": 16})
    batch = crops.random_batch(ImageSet([image]), [0], config, (1,), size=40)
    mirrored = 0
    for planes in batch.planes:
        row, column = (planes[:2] * 255).round()
        assert torch.equal(row[1:], row[:-1] + 1)
        flipped = bool(column[0, 0] > column[0, 1])
        mirrored += flipped
        assert torch.equal(column[:, 1:], column[:, :-1] + (-1 if flipped else 1))
        torch.testing.assert_close(planes[3], (2 * row + 1) / 50 - 1)
        torch.testing.assert_close(planes[4], (2 * column + 1) / 70 - 1)
    assert 10 < mirrored < 30


def test_a_batch_takes_every_image_before_it_takes_one_again() -> None:
    images = [np.full((8, 8, 1), value, np.uint8) for value in range(5)]
    config = configure_training(**{**SMALL, "crop_size": 8})
    batch = crops.random_batch(ImageSet(images), range(5), config, (0,), size=10)
    values = (batch.planes[:, 0, 0, 0] * 255).round().int().tolist()
    assert sorted(values[:5]) == sorted(values[5:]) == list(range(5))


def test_superpixels_are_those_of_the_crop_at_the_size_of_the_response() -> None:
    config = configure_training(**{**SMALL, "stride": 4, "superpixel_scale": 50.0, "crop_size": 30})
    batch = crops.random_batch(ImageSet(halves()), range(6), config, (0,))
    assert batch.superpixels is not None
    assert batch.superpixels.shape == (2, 8, 8)
    features = loop.begin(config, 3).network.before_last_norm(batch.planes)
    assert features.shape == (2, 6, 8, 8)
    for numbers in batch.superpixels:
        assert sorted(numbers.unique().tolist()) == list(range(int(numbers.max()) + 1))


# ---- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": "relu_norm"},
        {"stride": 2, "coordinates": True},
        {"stride": 4, "depth": 3, "dilation_growth": 2},
    ],
)
def test_statistics_are_those_of_all_pixels_of_whole_images(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = halves(3, 37, 41)
    network = SegmentationNetwork(3, 5, NetworkOptions(**{"width": 6, "depth": 2, "order": "norm_relu", **options}))
    monkeypatch.setattr(statistics, "_PIXELS_AT_ONCE", 41 * 8)  # strips
    with torch.no_grad():
        statistics.recalibrate(network, lambda: iter(images))
        areas = statistics.label_areas(network, lambda: iter(images), 5)
        batch = torch.stack([torch.from_numpy(image / np.float32(255)).permute(2, 0, 1) for image in images])
        evaluated = network(batch)
        network.train()
        with_batch_statistics = network(batch)  # the images have one size, so that all of them make a batch
    torch.testing.assert_close(evaluated, with_batch_statistics, rtol=1e-3, atol=1e-3)
    assert areas.tolist() == torch.bincount(evaluated.argmax(1).flatten(), minlength=5).tolist()


def test_labels_that_no_image_has_are_cut_and_the_others_ordered_by_area() -> None:
    network = SegmentationNetwork(3, 5, NetworkOptions(width=6, depth=2, order="norm_relu")).eval()
    kept = np.array([3, 0, 4])
    image = torch.rand(1, 3, 12, 14)
    torch.testing.assert_close(statistics.with_labels(network, kept)(image), network(image)[:, kept])
    model = ds.train(halves(), **{**SMALL, "n_labels": 40, "mu": 400.0, "held_out": 0.0, "steps": 30})
    maps = np.stack([model.predict_array(image) for image in halves()])
    areas = np.bincount(maps.ravel(), minlength=40)
    count = model.description.label_count
    assert count < 40
    assert all(areas[:count] > 0)
    assert list(areas[:count]) == sorted(areas[:count], reverse=True)
    np.testing.assert_allclose(np.array(model.description.label_areas), areas[:count] / areas.sum(), rtol=1e-9)


# ---- when to stop ----------------------------------------------------------------------------------------------------


def test_images_held_out_are_not_trained_on_and_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOOK_EVERY", 2)
    losses = iter([3.0, 2.0, 2.5, 2.5, 9.0])
    states: list[torch.Tensor] = []
    original = loop._loss

    def scripted(network: Any, batch: Any, config: Any) -> Any:
        output, backward = original(network, batch, config)
        if len(batch.planes) == 1:
            states.append(network.layers[0].weight.detach().clone())
            output = output._replace(loss=torch.tensor([next(losses)]))
        return output, backward

    monkeypatch.setattr(loop, "_loss", scripted)
    config = usable(configure_training(**{**SMALL, "steps": 100, "patience": 2, "held_out": 0.1}))
    training = train_on(halves(), config)
    assert training.stopped == "held_out"
    assert [asdict(look)["steps"] for look in training.looks] == [2, 4, 6, 8]
    assert len(training.history) == 8
    assert torch.equal(first_weights(training.model), states[1])


def test_a_time_budget_ends_it_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    config = usable(configure_training(**{**SMALL, "steps": 10**6, "time_budget": 3.0, "held_out": 0.0}))
    training = train_on(halves(), config)
    assert training.stopped == "time_budget"
    assert training.history[0]["learning_rate"] > 0.09
    assert training.history[-1]["learning_rate"] < 0.01


def test_memory_does_not_grow_with_the_number_of_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamicseg.training.images._KEPT_BYTES", 2 * halves(1)[0].nbytes)
    images = ImageSet(listed(folder)[0])
    for _ in range(2):
        assert all(images.pixels(number) is not None for number in range(6))
    assert len(images._kept) == 2


# ---- resuming --------------------------------------------------------------------------------------------------------


class _Interrupted(KeyboardInterrupt):
    pass


def interrupted_after(step: int, config: Any, images: Any, path: Path, *, resume: bool = False) -> None:
    def stop(record: Any) -> None:
        if record["step"] == step:
            raise _Interrupted

    with pytest.raises(_Interrupted):
        train_on(images, config, checkpoint=path, resume=resume, on_step=stop)


def test_a_training_carried_on_twice_gives_the_same_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOOK_EVERY", 3)
    images = listed(folder)[0]
    config = usable(configure_training(**SMALL))
    whole = train_on(images, config)
    path = folder / "checkpoint.safetensors"
    interrupted_after(4, config, images, path)
    interrupted_after(9, config, images, path, resume=True)
    resumed = train_on(images, config, checkpoint=path, resume=True)
    assert resumed.history == whole.history
    assert resumed.looks == whole.looks
    for name, tensor in whole.model.network.state_dict().items():
        assert torch.equal(resumed.model.network.state_dict()[name], tensor), name
    assert resumed.model.description.label_areas == whole.model.description.label_areas


def test_checkpoints_of_other_options_or_images_are_refused(folder: Path) -> None:
    images = listed(folder)[0]
    path = folder / "checkpoint.safetensors"
    interrupted_after(2, usable(configure_training(**SMALL)), images, path)
    with pytest.raises(ValueError, match="was made with steps 12, not 13"):
        train_on(images, usable(configure_training(**{**SMALL, "steps": 13})), checkpoint=path, resume=True)
    os.utime(images[0], (1, 1))
    with pytest.raises(ValueError, match="was made with other images, or they have changed since"):
        train_on(images, usable(configure_training(**SMALL)), checkpoint=path, resume=True)


def test_damaged_checkpoints_are_refused(folder: Path) -> None:
    images = halves()
    config = usable(configure_training(**SMALL))
    path = folder / "checkpoint.safetensors"
    interrupted_after(2, config, images, path)
    content = path.read_bytes()
    for damaged in (content[:100], content[:-5], b"nonsense" * 9):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="start anew, without --resume"):
            train_on(images, config, checkpoint=path, resume=True)
    ds.train(images, **{**SMALL, "steps": 2}).save(path)
    with pytest.raises(ValueError, match="is no checkpoint of a training"):
        train_on(images, config, checkpoint=path, resume=True)


def test_a_checkpoint_is_written_now_and_then(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynamicseg.training.train._CHECKPOINT_SECONDS", 0.0)
    path = folder / "checkpoint.safetensors"
    there: list[bool] = []
    config = usable(configure_training(**{**SMALL, "steps": 3}))
    train_on(halves(), config, checkpoint=path, on_step=lambda record: there.append(path.exists()))
    assert there == [True] * 3
    assert path.exists()  # who saves the model removes it


def test_the_same_seed_gives_the_same_model_and_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    models = [ds.train(halves(), **{**SMALL, "seed": seed}) for seed in (3, 3, 4)]
    assert torch.equal(torch.rand(2), expected)
    weights = [first_weights(model) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
