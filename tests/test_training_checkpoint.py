"""Checkpoints that are damaged or made by hand: one line that says so and what to do, and nothing is carried over."""

from __future__ import annotations

import json
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_models import damaged
from safetensors.torch import load, save

from dynamicseg.training import checkpoint, configure_training, loop
from dynamicseg.training.checkpoint import load_checkpoint, save_checkpoint
from dynamicseg.training.images import ImageSet
from dynamicseg.training.train import usable

CONFIG = usable(
    configure_training(
        n_labels=4,
        width=4,
        depth=2,
        stride=1,
        superpixel_scale=0.0,
        steps=5,
        batch_size=1,
        crop_size=16,
        precision="float32",
        device="cpu",
    )
)
BANDS = 3


class _Enough(Exception):
    pass


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of a checkpoint after three steps and a look at images held out."""
    images = ImageSet([np.random.default_rng(k).integers(0, 256, (20, 20, BANDS), np.uint8) for k in range(3)])
    progress = loop.begin(CONFIG, BANDS)

    def stop(record: loop.TrainingRecord) -> None:
        if record["step"] == 3:
            raise _Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(_Enough):
        patch.setattr(loop, "LOOK_EVERY", 2)
        loop.run(progress, images, [0, 1], [2], CONFIG, on_step=stop)
    path = tmp_path_factory.mktemp("checkpoint") / "c.safetensors"
    save_checkpoint(path, progress, CONFIG, "images")
    return path.read_bytes()


def numbers_of(progress: loop.Progress) -> list[Any]:
    """All that a checkpoint carries over."""
    momenta = progress.optimizer.state_dict()["state"]
    tensors = [
        *progress.network.state_dict().values(),
        *(entry["momentum_buffer"] for _, entry in sorted(momenta.items())),
        *(progress.best or {}).values(),
    ]
    return [progress.history, progress.looks, progress.seconds, [tensor.tolist() for tensor in tensors]]


def test_what_was_saved_is_carried_over(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(content)
    progress = loop.begin(CONFIG, BANDS)
    load_checkpoint(tmp_path / "c.safetensors", progress, CONFIG, "images")
    assert [record["step"] for record in progress.history] == [1, 2, 3]
    assert [look.steps for look in progress.looks] == [2]
    save_checkpoint(tmp_path / "again.safetensors", progress, CONFIG, "images")
    assert (tmp_path / "again.safetensors").read_bytes() == content


def test_training_without_momentum_is_carried_over(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"momentum": 0.0})
    images = ImageSet([np.random.default_rng(0).integers(0, 256, (20, 20, BANDS), np.uint8)])
    progress = loop.begin(config, BANDS)
    loop.run(progress, images, [0], [], config)
    save_checkpoint(tmp_path / "c.safetensors", progress, config, "images")
    resumed = loop.begin(config, BANDS)
    load_checkpoint(tmp_path / "c.safetensors", resumed, config, "images")
    assert numbers_of(resumed) == numbers_of(progress)


def refusal(content: bytes, folder: Path) -> str:
    """The line that a checkpoint is refused with; the training is what it was."""
    path = folder / "c.safetensors"
    path.write_bytes(content)
    progress = loop.begin(CONFIG, BANDS)
    before = numbers_of(progress)
    with pytest.raises(ValueError, match=r"start anew, without --resume, or delete it$") as caught:
        load_checkpoint(path, progress, CONFIG, "images")
    assert numbers_of(progress) == before
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert len(text.splitlines()) == 1
    return text


def with_tensors(content: bytes, change: Callable[[dict[str, torch.Tensor]], object]) -> bytes:
    """The same checkpoint with other tensors, as somebody would make it who knows the format."""
    tensors = load(content)
    change(tensors)
    return signed(state_of(content), tensors)


def with_state(content: bytes, **changes: Any) -> bytes:
    """The same with another state."""
    return signed({**state_of(content), **changes}, load(content))


def signed(fields: dict[str, Any], tensors: dict[str, torch.Tensor]) -> bytes:
    state = checkpoint._State.model_construct(**fields)
    if all(look.keys() == {"steps", "loss", "n_labels"} for look in fields["looks"]):
        state.looks = [loop.Look(**look) for look in fields["looks"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydantic, whose types the state no longer has
        state.sha256 = checkpoint._digest(state, tensors)
        text = state.model_dump_json()
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return bytes(save(whole, metadata={"dynamicseg_checkpoint": text}))


def state_of(content: bytes) -> dict[str, Any]:
    (size,) = struct.unpack("<Q", content[:8])
    found: dict[str, Any] = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["dynamicseg_checkpoint"])
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update({"momentum.0": torch.zeros(2)}), "momentum.0 is F32 [2], not F32 [4, 3, 3, 3]"),
        (lambda t: t.update({"momentum.1": t["momentum.1"].half()}), "momentum.1 is F16 [4], not F32 [4]"),
        (lambda t: t.update({"momentum.x": torch.zeros(2)}), "momentum.x has no place in it"),
        (lambda t: t.pop("momentum.3"), "momentum.3 is missing"),
        (lambda t: t.update({"best.layers.0.weight": torch.zeros(1)}), "best.layers.0.weight is F32 [1], not"),
        (lambda t: t.pop("best.layers.0.bias"), "best.layers.0.bias is missing"),
        (lambda t: t.update({"network.layers.0.bias": torch.zeros(4).double()}), "network.layers.0.bias is F64 [4]"),
        (lambda t: t.pop("history"), "history is missing"),
        (lambda t: t.update({"history": t["history"][:, :6]}), "history is F64 [3, 6], not F64 [3, 7]"),
        (lambda t: t.update({"history": t["history"][:2]}), "history is F64 [2, 7], not F64 [3, 7]"),
        (lambda t: t.update({"history": t["history"].long()}), "history is I64 [3, 7], not F64 [3, 7]"),
        (lambda t: t.update({"history": torch.zeros(3, 7).double()}), "its history is not one of steps"),
        (lambda t: t.update({"history": t["history"] / 0}), "its history is not one of steps"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Any, words: str, content: bytes, tmp_path: Path) -> None:
    text = refusal(with_tensors(content, lambda tensors: change(tensors)), tmp_path)
    assert "is damaged, " in text
    assert words in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 6}, "it says that 6 of 5 steps are done"),
        ({"steps": 0}, "is no checkpoint of a training, is one of another version"),
        ({"looks": []}, "has no place in it"),
        ({"looks": [{"steps": 2}]}, "is no checkpoint of a training, is one of another version"),
        ({"seconds": "long"}, "is no checkpoint of a training, is one of another version"),
        ({"seconds": -1.0}, "is no checkpoint of a training, is one of another version"),
    ],
)
def test_a_state_that_does_not_fit_is_said(changes: dict[str, Any], words: str, content: bytes, tmp_path: Path) -> None:
    assert words in refusal(with_state(content, **changes), tmp_path)


def test_one_changed_bit_of_a_number_is_found(content: bytes, tmp_path: Path) -> None:
    # Training would go on from it, and to other bits than those of a training that was never interrupted.
    changed = bytearray(content)
    changed[-1] ^= 1
    assert "it is not what was written" in refusal(bytes(changed), tmp_path)


def test_it_is_refused_wherever_it_is_cut(content: bytes, tmp_path: Path) -> None:
    for length in range(1, len(content), 211):
        refusal(content[:length], tmp_path)


def test_whatever_is_damaged_nothing_else_is_carried_over(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    whole = loop.begin(CONFIG, BANDS)
    load_checkpoint(path, whole, CONFIG, "images")
    refused = 0
    (header,) = struct.unpack("<Q", content[:8])
    for seed in range(400):
        rng = random.Random(seed)
        # Every second time only what stands in front of the numbers.
        parts = (content, b"") if seed % 2 else (content[: 8 + header], content[8 + header :])
        path.write_bytes(damaged(parts[0], rng) + parts[1])
        progress = loop.begin(CONFIG, BANDS)
        try:
            load_checkpoint(path, progress, CONFIG, "images")
        except ValueError as error:
            assert len(str(error).splitlines()) == 1, seed
            refused += 1
        else:
            assert numbers_of(progress) == numbers_of(whole), seed
    assert refused > 390
