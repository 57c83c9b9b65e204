"""The training step on a batch of crops, and the loop around it: no files, no screen."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

import torch
from torch import Tensor

from dynamicseg import ops
from dynamicseg.features.planes import FeaturePlanes
from dynamicseg.interrupts import interrupts_held_back
from dynamicseg.model import SegmentationNetwork
from dynamicseg.ops import DynamicLossOutput
from dynamicseg.ops._runtime import freed_memory_kept
from dynamicseg.time_budget import StepClock
from dynamicseg.training.config import TrainingConfig
from dynamicseg.training.crops import Batch, random_batch
from dynamicseg.training.images import ImageSet

LOOK_EVERY = 50
"""Steps between two looks at the images that are held out."""
_HELD_OUT_CROPS = 8
# A GPU works on while records are not read; reading one waits for all that it was given.
_STEPS_BETWEEN_READINGS = 8

# What random numbers are for, so that none are used twice.
OF_SPLIT, _OF_STEP, _OF_HELD_OUT = range(3)

Stopped = Literal["steps", "time_budget", "held_out"]
"""Why training ended: steps were done, time was up, or images that were held out got no better."""


class TrainingRecord(TypedDict):
    """What a training step saw, before its update: means over its crops."""

    step: int  # from 1
    loss: float
    similarity: float
    continuity: float
    weight: float  # on continuity
    n_labels: float
    learning_rate: float


@dataclass(frozen=True)
class Look:
    """How the network did on crops of images that are held out."""

    steps: int  # done before
    loss: float
    n_labels: float


OnTrainingStep = Callable[[TrainingRecord], None]


@dataclass
class Progress:
    """Where a training is: all that a checkpoint has to hold.

    Attributes:
        network: in training mode.
        optimizer: of all parameters but scale and shift of the last batch norm, which stay 1 and 0. So labels keep
            competing on equal terms; trained over many images, they let one label win everywhere.
        history: one record for each step that was read.
        unread: learning rate, and what ``_row`` gives, still on the device, of the steps that came after these.
        looks: at the images that are held out.
        best: the network's numbers at the look with the least loss; None: there was no look.
        seconds: since the beginning, without interruptions.
    """

    network: SegmentationNetwork
    optimizer: torch.optim.SGD
    history: list[TrainingRecord] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    seconds: float = 0.0
    unread: list[tuple[float, Tensor]] = field(default_factory=list)

    @property
    def steps_done(self) -> int:
        """Whether their records were read or not."""
        return len(self.history) + len(self.unread)

    def read(self) -> list[TrainingRecord]:
        """Waits until all steps are done, puts their records into ``history`` and returns those that are new."""
        if not self.unread:
            return []
        rows = torch.stack([row for _, row in self.unread]).tolist()
        new = [
            _record(number, row, rate)
            for number, (row, (rate, _)) in enumerate(zip(rows, self.unread, strict=True), len(self.history) + 1)
        ]
        self.unread.clear()
        self.history += new
        return new


def begin(config: TrainingConfig, bands: int, features: FeaturePlanes | None = None) -> Progress:
    """A new network, its random numbers by the seed; the caller's random numbers go on as if nothing had happened."""
    options = config.network
    if features is not None:
        options = options.model_copy(update={"feature_planes": features.projection.planes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = SegmentationNetwork(bands, config.n_labels, options, features)
    network = network.to(config.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fixed = {id(parameter) for parameter in network.last_norm.parameters()}
    trained = [parameter for parameter in network.parameters() if id(parameter) not in fixed]
    return Progress(network, torch.optim.SGD(trained, lr=config.learning_rate, momentum=config.momentum))


def run(
    progress: Progress,
    images: ImageSet,
    trained_on: Sequence[int],
    held_out: Sequence[int],
    config: TrainingConfig,
    *,
    finishing_seconds: float = 0.0,
    on_step: OnTrainingStep | None = None,
) -> Stopped:
    """Trains until steps are done, time is up or the images that are held out get no better; then the best is taken.

    Args:
        progress: is carried on; whatever ``on_step`` raises, it holds all that was done.
        images: all of them.
        trained_on: their numbers.
        held_out: numbers of others; none: the last network is the best.
        config: with device and precision as they are used.
        finishing_seconds: what is to be left of the time budget.
        on_step: called with the record of each step, on a GPU for several at a time, a little late; what it raises
            ends the training.

    Raises:
        ValueError: the loss is not finite any more, or no image can be used.
    """
    on_cpu = config.device == "cpu"
    with freed_memory_kept() if on_cpu else contextlib.nullcontext():
        try:
            stopped = _run(progress, images, trained_on, held_out, config, finishing_seconds, on_step)
        except (KeyboardInterrupt, SystemExit):
            progress.read()
            raise
    if progress.best is not None:
        progress.network.load_state_dict(progress.best)
    return stopped


def _run(
    progress: Progress,
    images: ImageSet,
    trained_on: Sequence[int],
    held_out: Sequence[int],
    config: TrainingConfig,
    finishing_seconds: float,
    on_step: OnTrainingStep | None,
) -> Stopped:
    began = time.perf_counter() - progress.seconds
    deadline = None if config.time_budget is None else began + config.time_budget - finishing_seconds
    clock = StepClock(deadline)
    group = _steps_between_readings(config)
    fits = True
    watched = None
    if held_out:
        size = min(len(held_out), _HELD_OUT_CROPS)
        watched = random_batch(
            images, held_out, config, (config.seed, _OF_HELD_OUT), size=size, features=progress.network.features
        )
    while True:
        done = progress.steps_done
        stopped = _stopped(progress, config, fits)
        if watched is not None and (stopped or done % LOOK_EVERY == 0) and done > _last_look(progress):
            _look(progress, watched, config)
            stopped = stopped or _stopped(progress, config, fits)
        if stopped is not None:
            return stopped
        rate = _learning_rate(config, done, began, deadline)
        batch = random_batch(
            images, trained_on, config, (config.seed, _OF_STEP, done), features=progress.network.features
        )
        with interrupts_held_back():  # a step that is done is also noted: whoever goes on would do it twice
            output = _step(progress, batch, config, rate)
            progress.unread.append((rate, _row(output)))
        done = progress.steps_done
        if len(progress.unread) == group or done == config.steps or done % LOOK_EVERY == 0:
            new = progress.read()
            progress.seconds = time.perf_counter() - began
            _tell(new, on_step)
        fits = clock.another_step_fits()


def _steps_between_readings(config: TrainingConfig) -> int:
    # With a time budget a step has to be waited for, to know how long it took.
    return 1 if config.device == "cpu" or config.time_budget is not None else _STEPS_BETWEEN_READINGS


def _tell(records: Sequence[TrainingRecord], on_step: OnTrainingStep | None) -> None:
    for record in records:
        _check_finite(record["loss"], f"at step {record['step']}")
        if on_step is not None:
            on_step(record)


def _check_finite(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} {where}: the learning rate is too high, or values of the images are too far from 0..1"
        )


def _stopped(progress: Progress, config: TrainingConfig, fits: bool) -> Stopped | None:
    if progress.steps_done >= config.steps:
        return "steps"
    losses = [look.loss for look in progress.looks]
    if losses and len(losses) - 1 - losses.index(min(losses)) >= config.patience:
        return "held_out"
    return None if fits else "time_budget"


def _learning_rate(config: TrainingConfig, done: int, began: float, deadline: float | None) -> float:
    """Half a cosine, from ``learning_rate`` to 0 at the last step, or when time is up if that is sooner."""
    share = done / config.steps
    if deadline is not None:
        share = max(share, min(1.0, (time.perf_counter() - began) / max(deadline - began, 1e-9)))
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def _last_look(progress: Progress) -> int:
    return progress.looks[-1].steps if progress.looks else 0


def _look(progress: Progress, watched: Batch, config: TrainingConfig) -> None:
    with torch.no_grad():
        output, _ = _loss(progress.network, watched, config)
    loss = float(output.loss.mean())
    _check_finite(loss, f"of images held out, after step {progress.steps_done}")  # no number is less than NaN
    if not progress.looks or loss < min(look.loss for look in progress.looks):
        progress.best = {name: tensor.clone() for name, tensor in progress.network.state_dict().items()}
    counts = output.label_counts.float()
    progress.looks.append(Look(progress.steps_done, loss, float(counts.mean())))


def _step(progress: Progress, batch: Batch, config: TrainingConfig, rate: float) -> DynamicLossOutput:
    for group in progress.optimizer.param_groups:
        group["lr"] = rate
    output, backward = _loss(progress.network, batch, config)
    progress.optimizer.zero_grad()
    backward()
    progress.optimizer.step()
    return output


def _loss(
    network: SegmentationNetwork, batch: Batch, config: TrainingConfig
) -> tuple[DynamicLossOutput, Callable[[], None]]:
    """The loss of each crop, and what then sets the gradients of its mean."""
    device = torch.device(config.device)
    planes = _moved(batch.planes, device).contiguous(memory_format=torch.channels_last)
    superpixels = None if batch.superpixels is None else _moved(batch.superpixels, device)
    scribbles = None if batch.scribbles is None else _moved(batch.scribbles, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16", cache_enabled=False):
        features = network.before_last_norm(planes)
    norm = network.last_norm
    output, grads = ops.batch_norm_dynamic_loss_and_grad(
        features,
        norm.weight,
        norm.bias,
        weighting=config.weighting,
        mu=config.mu,
        superpixels=superpixels,
        scribbles=scribbles,
        # Found where the batch was made: the loss would have to wait for the GPU to find it.
        superpixel_count=None if batch.superpixels is None else int(batch.superpixels.max()) + 1,
        eps=norm.eps,
    )
    return output, lambda: features.backward(grads.grad_z)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """To a GPU by way of memory that it can read by itself, in its own time."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _row(output: DynamicLossOutput) -> Tensor:
    """``[5]`` float64, where the output is: means over the crops."""
    numbers = (output.loss, output.similarity, output.continuity, output.weight, output.label_counts.float())
    return torch.stack([number.mean().double() for number in numbers])


def _record(step: int, row: Sequence[float], rate: float) -> TrainingRecord:
    loss, similarity, continuity, weight, n_labels = row
    return {
        "step": step,
        "loss": loss,
        "similarity": similarity,
        "continuity": continuity,
        "weight": weight,
        "n_labels": n_labels,
        "learning_rate": rate,
    }
