"""Training without a word to the processor: as on the CPU, but told late. Graphs need a GPU, the rest does not."""

from __future__ import annotations

import pickle
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dynamicseg import gpu_training
from dynamicseg.config import SegmenterConfig, configure
from dynamicseg.gpu_training import GpuTrainer, TrainingStep, why_no_graph
from dynamicseg.image_terms import ImageTerms
from dynamicseg.ops import _runtime
from dynamicseg.trainer import StepRecord, Trained, train_on_image


def options(**changes: Any) -> SegmenterConfig:
    fields = {"channels": 12, "max_steps": 20, "stop_labels": 1, "precision": "float32", "loss": "fused"}
    return configure("paper", **{**fields, **changes})


def noise(height: int = 20, width: int = 30, seed: int = 5) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def squares(height: int = 20, width: int = 30) -> Tensor:
    rows, columns = torch.arange(height)[:, None] // 5, torch.arange(width) // 5
    return (rows * (width // 5) + columns)[None]


def assert_begins_alike(actual: Trained, expected: Trained, steps: int) -> None:
    """Rounding of the update differs, which training magnifies."""
    for a, e in zip(actual.history[:steps], expected.history[:steps], strict=True):
        assert a["step"] == e["step"]
        assert a["loss"] == pytest.approx(e["loss"], rel=1e-3)
        assert abs(a["n_labels"] - e["n_labels"]) <= 1


def test_steps_are_those_of_the_trainer(device: torch.device) -> None:
    expected = train_on_image(noise(), options())
    trained = GpuTrainer(options()).train(noise().to(device))
    assert_begins_alike(trained, expected, 5)
    assert [record["step"] for record in trained.history] == list(range(1, 21))
    assert trained.stopped == "max_steps"
    assert trained.labels.shape == (20, 30)
    assert len(trained.labels.unique()) == trained.history[-1]["n_labels"]


def test_superpixels(device: torch.device) -> None:
    expected = train_on_image(noise(), options(), terms=ImageTerms(superpixels=squares()))
    trained = GpuTrainer(options()).train(noise().to(device), terms=ImageTerms(superpixels=squares().to(device)))
    assert_begins_alike(trained, expected, 4)
    for superpixel in range(24):
        assert len(trained.labels.cpu()[squares()[0] == superpixel].unique()) == 1


@pytest.mark.parametrize("between", [1, 3, 8])
def test_no_step_after_the_first_with_few_labels_changes_anything(
    device: torch.device, between: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_training, "_STEPS_BETWEEN_LOOKS", 1)
    exact = GpuTrainer(options(stop_labels=9, max_steps=500)).train(noise().to(device))
    assert exact.stopped == "few_labels"
    counts = [record["n_labels"] for record in exact.history]
    assert counts[-1] <= 9 < min(counts[:-1])
    monkeypatch.setattr(gpu_training, "_STEPS_BETWEEN_LOOKS", between)
    late = GpuTrainer(options(stop_labels=9, max_steps=500)).train(noise().to(device))
    assert late.history == exact.history
    assert torch.equal(late.labels, exact.labels)


def test_who_watches_labels_changes_nothing(device: torch.device) -> None:
    told: list[tuple[int, int]] = []
    watched = GpuTrainer(options(stop_labels=9, max_steps=500)).train_together(
        [noise().to(device)],
        on_labels=lambda record, labels: told.append((record["step"], len(np.unique(labels)))),
    )[0]
    alone = GpuTrainer(options(stop_labels=9, max_steps=500)).train(noise().to(device))
    assert watched.history == alone.history
    assert torch.equal(watched.labels, alone.labels)
    assert told == [(record["step"], record["n_labels"]) for record in alone.history]


def test_one_image_after_another_leaves_no_trace(device: torch.device) -> None:
    trainer = GpuTrainer(options())
    first = trainer.train(noise().to(device))
    other = trainer.train(noise(seed=6).to(device))
    again = trainer.train(noise().to(device))
    assert other.history != first.history
    assert again.history == first.history
    assert torch.equal(again.labels, first.labels)
    trainer.train(noise(24, 18).to(device))
    assert trainer.train(noise().to(device)).history == first.history


def test_superpixels_of_other_images_change_nothing(device: torch.device) -> None:
    images = [noise(80, 90, seed).to(device) for seed in range(2)]
    many = torch.arange(80 * 90).reshape(1, 80, 90).to(device)  # more than what most photos have
    superpixels = [squares(80, 90).to(device), many]
    together = GpuTrainer(options(max_steps=3)).train_together(
        images, terms=[ImageTerms(superpixels=numbers) for numbers in superpixels]
    )
    for trained, image, numbers in zip(together, images, superpixels, strict=True):
        alone = GpuTrainer(options(max_steps=3)).train(image, terms=ImageTerms(superpixels=numbers))
        assert trained.history == alone.history
        assert torch.equal(trained.labels, alone.labels)


def test_sizes_that_take_turns_are_prepared_once(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[tuple[int, ...]] = []

    class Counted(TrainingStep):
        def __init__(self, image: Tensor, *arguments: Any) -> None:
            prepared.append(tuple(image.shape[2:]))
            super().__init__(image, *arguments)

    monkeypatch.setattr(gpu_training, "TrainingStep", Counted)
    trainer = GpuTrainer(options(max_steps=1))
    sizes = [(20, 30), (30, 20), (20, 20), (30, 30)]
    for size in sizes * 2:
        trainer.train(noise(*size).to(device))
    assert prepared == sizes
    trainer.train(noise(10, 10).to(device))  # in place of the one that was not used for longest
    trainer.train(noise(30, 20).to(device))
    assert prepared == [*sizes, (10, 10)]
    trainer.train(noise(20, 30).to(device))
    assert prepared == [*sizes, (10, 10), (20, 30)]


def test_what_is_kept_makes_room_for_what_does_not_fit(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = GpuTrainer(options(max_steps=2))
    expected = trainer.train(noise().to(device)).history
    begun: list[int] = []

    class TooLarge(TrainingStep):
        def __init__(self, *arguments: Any) -> None:
            begun.append(len(trainer._kept))
            if begun[-1] > 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().__init__(*arguments)

    monkeypatch.setattr(gpu_training, "TrainingStep", TooLarge)
    trainer.train(noise(30, 30).to(device))
    assert begun == [1, 0]
    monkeypatch.undo()
    assert trainer.train(noise().to(device)).history == expected


def test_together_as_alone(device: torch.device) -> None:
    images = [noise(seed=seed).to(device) for seed in range(3)]
    seen: list[list[StepRecord]] = [[] for _ in images]
    together = GpuTrainer(options(stop_labels=9)).train_together(images, [one.append for one in seen])
    for trained, image, records in zip(together, images, seen, strict=True):
        alone = GpuTrainer(options(stop_labels=9)).train(image)
        assert trained.history == alone.history == records
        assert trained.stopped == alone.stopped
        assert torch.equal(trained.labels, alone.labels)


def test_together_wants_one_size(device: torch.device) -> None:
    with pytest.raises(ValueError, match="images of 30x20 and 30x21 pixels cannot be trained on together"):
        GpuTrainer(options()).train_together([noise().to(device), noise(21, 30).to(device)])


def test_a_deadline_ends_it_after_a_step(device: torch.device) -> None:
    trained = GpuTrainer(options(max_steps=1000)).train(noise().to(device), deadline=time.perf_counter())
    assert trained.stopped == "time_budget"
    assert len(trained.history) == 1


def test_what_a_watcher_raises_ends_it(device: torch.device) -> None:
    def stop(record: StepRecord) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        GpuTrainer(options()).train(noise().to(device), stop)


def test_a_loss_that_is_not_finite(device: torch.device) -> None:
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d+: the image's values, from "):
        GpuTrainer(options(learning_rate=1e30)).train(noise().to(device))


def test_a_trainer_goes_to_another_process_without_what_it_has_captured(device: torch.device) -> None:
    trainer = GpuTrainer(options())
    first = trainer.train(noise().to(device))
    assert pickle.loads(pickle.dumps(trainer)).train(noise().to(device)).history == first.history


def test_why_there_is_no_graph() -> None:
    assert why_no_graph(torch.device("cpu")) == "CUDA graphs are for GPUs"
    if not torch.cuda.is_available():
        assert why_no_graph(torch.device("cuda")) == _runtime.why(torch.device("cuda"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_waits_for_nothing_and_is_replayed() -> None:
    device = torch.device("cuda")
    assert why_no_graph(device) == ""
    prepared = GpuTrainer(options()).prepare([noise().to(device)])
    torch.cuda.set_sync_debug_mode("error")
    try:
        prepared.steps[0].run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_cannot_be_captured_is_run_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise().cuda()
    expected = GpuTrainer(options()).train(image)
    stream = torch.cuda.current_stream()

    def waits(steps: Any, device: torch.device) -> None:
        steps[0].run()
        steps[0].labels.sum().item()

    monkeypatch.setattr(gpu_training, "_side_by_side", waits)
    monkeypatch.setattr(gpu_training, "_NO_GRAPH", {})
    assert GpuTrainer(options()).train(image).history == expected.history
    assert why_no_graph(image.device) != ""
    assert torch.cuda.current_stream() == stream


def test_terms_of_the_loss_are_those_of_the_cpu(device: torch.device) -> None:
    drawn = torch.full((1, 20, 30), -1)
    drawn[:, 3:5, 4:20], drawn[:, 12, 2:9] = 0, 1
    mask = torch.ones(1, 20, 30, dtype=torch.bool)
    mask[:, :, 25:] = False
    maps = {"superpixels": squares(), "mask": mask, "scribbles": drawn, "guide": (squares() // 6) % 12}
    config = options(continuity="huber", diagonals=True, guide_weight=3.0)
    expected = train_on_image(noise(), config, terms=ImageTerms(**maps, label_floor=4, least_labels=2))
    trainer = GpuTrainer(config)
    on_device = {name: tensor.to(device) for name, tensor in maps.items()}
    terms = ImageTerms(**on_device, label_floor=4, least_labels=2)
    trained = trainer.train(noise().to(device), terms=terms)
    assert_begins_alike(trained, expected, 4)
    # Another image with terms of the same kind, in the same memory, and then the first again.
    trainer.train(noise(seed=6).to(device), terms=replace(terms, guide=on_device["guide"].flip(1)))
    assert trainer.train(noise().to(device), terms=terms).history == trained.history


def test_least_labels_end_training_early(device: torch.device) -> None:
    history = GpuTrainer(options()).train(noise().to(device), terms=ImageTerms(least_labels=10)).history
    assert all(record["n_labels"] > 10 for record in history[:-1])
    expected = train_on_image(noise(), options(), terms=ImageTerms(least_labels=10)).history
    assert abs(len(history) - len(expected)) <= 2


def test_terms_of_several_kinds_are_not_trained_on_together(device: torch.device) -> None:
    kinds = [ImageTerms(), ImageTerms(superpixels=squares().to(device))]
    with pytest.raises(ValueError, match="other terms of the loss cannot be trained on together"):
        GpuTrainer(options()).train_together([noise().to(device), noise().to(device)], terms=kinds)
