"""Records of training steps that are read several at a time, as on a GPU: the same training, and few times to wait."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import SMALL, halves

from dynamicseg import ops
from dynamicseg.training import configure_training, loop
from dynamicseg.training import train as training
from dynamicseg.training.images import ImageSet
from dynamicseg.training.train import train_on, usable

CONFIG = usable(configure_training(**{**SMALL, "superpixel_scale": 20.0, "held_out": 0.0}))


@pytest.fixture
def in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five steps between two readings, on the CPU."""
    monkeypatch.setattr(loop, "_steps_between_readings", lambda config: 5)


def test_a_gpu_is_read_every_few_steps_and_where_time_counts_after_each() -> None:
    for device, budget, steps in (("cpu", None, 1), ("cuda:0", None, 8), ("cuda:0", 9.0, 1)):
        config = CONFIG.model_copy(update={"device": device, "time_budget": budget})
        assert loop._steps_between_readings(config) == steps


def test_records_read_in_groups_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOOK_EVERY", 3)
    config = CONFIG.model_copy(update={"held_out": 0.2})
    one_by_one = train_on(halves(), config)
    monkeypatch.setattr(loop, "_steps_between_readings", lambda config: 5)
    told: list[int] = []
    in_groups = train_on(halves(), config, on_step=lambda record: told.append(record["step"]))
    assert told == list(range(1, 13))
    assert in_groups.history == one_by_one.history
    assert in_groups.looks == one_by_one.looks
    for name, tensor in one_by_one.model.network.state_dict().items():
        assert torch.equal(in_groups.model.network.state_dict()[name], tensor), name


@pytest.mark.usefixtures("in_groups")
def test_nothing_is_lost_where_training_is_interrupted_between_two_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_on(halves(), CONFIG)
    path = tmp_path / "c.safetensors"
    original, calls = loop._step, [0]

    def interrupted(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 8:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(loop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_on(halves(), CONFIG, checkpoint=path)
    monkeypatch.setattr(loop, "_step", original)
    told: list[int] = []
    resumed = train_on(
        halves(), CONFIG, checkpoint=path, resume=True, on_step=lambda record: told.append(record["step"])
    )
    assert told == [8, 9, 10, 11, 12]
    assert resumed.history == whole.history


def test_an_interrupt_within_a_step_comes_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_on(halves(), CONFIG)
    original, calls = torch.optim.SGD.step, [0]

    def interrupted(self: torch.optim.SGD) -> None:
        original(self)
        calls[0] += 1
        if calls[0] == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(torch.optim.SGD, "step", interrupted)
    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_on(halves(), CONFIG, checkpoint=path)
    resumed = train_on(halves(), CONFIG, checkpoint=path, resume=True)
    assert resumed.history == whole.history


@pytest.mark.usefixtures("in_groups")
def test_a_loss_that_is_not_finite_is_said_with_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = loop._step, [0]

    def spoiled(*arguments: Any) -> Any:
        calls[0] += 1
        output = original(*arguments)
        return output._replace(loss=output.loss * float("nan")) if calls[0] == 3 else output

    monkeypatch.setattr(loop, "_step", spoiled)
    with pytest.raises(ValueError, match="the loss is nan at step 3"):
        train_on(halves(), CONFIG)


def test_a_loss_of_images_held_out_that_is_not_finite_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop._loss

    def spoiled(*arguments: Any) -> Any:
        output, backward = original(*arguments)
        return (output if torch.is_grad_enabled() else output._replace(loss=output.loss * float("nan"))), backward

    monkeypatch.setattr(loop, "_loss", spoiled)
    monkeypatch.setattr(loop, "LOOK_EVERY", 3)
    with pytest.raises(ValueError, match="the loss is nan of images held out, after step 3: "):
        train_on(halves(), CONFIG.model_copy(update={"held_out": 0.2}))


@pytest.mark.usefixtures("in_groups")
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_checkpoint_is_not_written_over_by_what_is_not_finite(
    interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    original, calls = loop._step, [0]

    def spoiled(*arguments: Any) -> Any:
        calls[0] += 1
        if interrupted and calls[0] == 9:
            raise KeyboardInterrupt
        output = original(*arguments)
        return output._replace(loss=output.loss * float("nan")) if calls[0] == 8 else output

    monkeypatch.setattr(loop, "_step", spoiled)
    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt if interrupted else ValueError):
        train_on(halves(), CONFIG, checkpoint=path)
    monkeypatch.setattr(loop, "_step", original)
    told: list[int] = []
    train_on(halves(), CONFIG, checkpoint=path, resume=True, on_step=lambda record: told.append(record["step"]))
    assert told == list(range(6, 13))  # after the first five, read together


@pytest.mark.usefixtures("in_groups")
def test_no_step_reads_what_the_device_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()
    counts: list[int | None] = []
    loss = ops.batch_norm_dynamic_loss_and_grad

    def watched(*arguments: Any, superpixel_count: int | None = None, **options: Any) -> Any:
        counts.append(superpixel_count)
        assert superpixel_count == int(options["superpixels"].max()) + 1
        return loss(*arguments, superpixel_count=superpixel_count, **options)

    monkeypatch.setattr(ops, "batch_norm_dynamic_loss_and_grad", watched)
    for name in ("item", "__float__", "tolist", "cpu", "__bool__"):
        original = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *rest: Any, name: str = name, original: Any = original) -> Any:
            read[name] += 1
            return original(self, *rest)

        monkeypatch.setattr(torch.Tensor, name, counted)
    progress = loop.begin(CONFIG, 3)
    images = ImageSet(halves())
    loop.run(progress, images, range(6), [], CONFIG)
    assert read == {"tolist": 3}  # of 5, 5 and 2 steps
    assert len(counts) == 12
