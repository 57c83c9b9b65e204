from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynamicseg.bench import training
from dynamicseg.trained_model import TrainedModel

QUICK = "train:steps=30:width=8:depth=1:stride=1:crop_size=32:batch_size=2"


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Photos of three colours to train on, others to score on, and where which colour is."""
    random = np.random.default_rng(0)
    colours = np.array([(220, 40, 40), (40, 220, 40), (40, 40, 220)])
    folders = (tmp_path / "train", tmp_path / "test", tmp_path / "truth")
    for folder in folders:
        folder.mkdir()
    for number in range(6):
        classes = np.kron(random.permutation(3)[:, None], np.ones((14, 48), int))
        photo = np.clip(colours[classes] + random.normal(0, 10, (*classes.shape, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(photo).save(folders[number % 2] / f"{number}.png")
        if number % 2:
            classes[:, :2] = 11
            Image.fromarray(classes.astype(np.uint8)).save(folders[2] / f"{number}.png")
    return folders


def test_methods_are_scored_on_the_test_images(data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    told: list[str] = []
    report = training.run(
        *data,
        n_labels=3,
        ignore_label=11,
        methods=[QUICK, "kmeans", "segment:max_steps=2", "segment-kmeans:max_steps=2"],
        seeds=2,
        output=tmp_path / "out",
        progress=told.append,
    )
    json.dumps(report)
    assert [(entry["method"], entry["seed"]) for entry in report["methods"]][:2] == [(QUICK, 0), (QUICK, 1)]
    assert len(report["methods"]) == 8
    scores = {entry["method"]: entry["scores"]["hungarian"]["miou"] for entry in report["methods"]}
    assert scores["kmeans"] > 0.99
    assert scores["segment-kmeans:max_steps=2"] > 0.9
    assert scores["segment:max_steps=2"] < 0.9  # labels of each image are its own
    assert all(entry["scores"]["majority"]["classes"] == 3 for entry in report["methods"])
    assert report["methods"][1]["description"]["training"]["seed"] == 1
    model = TrainedModel.load(tmp_path / "out" / f"{QUICK.replace(':', '_')}_seed0" / "model.safetensors")
    assert model.description.label_count <= 3
    assert "run 4 of 8, kmeans, seed 1: labelling" in told
    assert "mean over 2 seeds" in str(training.table(report).renderables[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"methods": ["kmeen"]}, "method 'kmeen': choose from train, kmeans"),
        ({"methods": ["kmeans:k=3"]}, "method 'kmeans' takes no options, but k was given"),
        ({"n_labels": 0}, "n_labels is 0: pass at least 1"),
        ({"seeds": 0}, "seeds is 0: pass at least 1"),
        ({"methods": ["train:steps"]}, "'steps' should be OPTION=VALUE"),
    ],
)
def test_what_is_wrong_is_said(arguments: dict[str, object], words: str, data: tuple[Path, Path, Path]) -> None:
    with pytest.raises(ValueError, match=words):
        training.run(*data, **{"n_labels": 3, "methods": ["kmeans"], **arguments})  # type: ignore[arg-type]


def test_a_folder_without_images_is_named(data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: this folder holds no images"):
        training.run(tmp_path / "empty", *data[1:], n_labels=3)


@pytest.mark.dataset
def test_on_a_drive_a_short_training_is_better_than_colours_alone(
    dataset: Callable[[str], Path], tmp_path: Path
) -> None:
    for name in ("train", "val", "valannot"):
        (tmp_path / name).mkdir()
        for path in sorted((dataset("camvid") / name).iterdir())[::8]:
            (tmp_path / name / path.name).symlink_to(path)
    report = training.run(
        tmp_path / "train",
        tmp_path / "val",
        tmp_path / "valannot",
        n_labels=11,
        ignore_label=11,
        methods=["train:steps=60:width=16:depth=2:coordinates=true", "kmeans"],
    )
    trained, kmeans = (entry["scores"]["majority"]["miou"] for entry in report["methods"])
    assert trained > kmeans
