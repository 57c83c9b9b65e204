"""The training step and the loop around it on the CPU (for GPUs, see ``gpu_training``): no files, no screen."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from dynamicseg import ops
from dynamicseg.config import SegmenterConfig
from dynamicseg.image_terms import ImageTerms, guide_weights
from dynamicseg.model import SegmentationNetwork, seeded_network
from dynamicseg.ops import DynamicLossOutput
from dynamicseg.ops._runtime import freed_memory_kept
from dynamicseg.published import published_loss_and_grad
from dynamicseg.time_budget import StepClock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class StepRecord(TypedDict):
    """What a training step saw, before its update."""

    step: int  # from 1
    loss: float
    similarity: float
    continuity: float
    weight: float  # on continuity
    n_labels: int


OnStep = Callable[[StepRecord], None]
OnLabels = Callable[[StepRecord, "NDArray[np.int64]"], None]
"""Told of a step and its labels, ``[H, W]``, as the network numbers them; they may change once it returns."""

NO_TERMS = ImageTerms()

Stopped = Literal["few_labels", "max_steps", "time_budget"]
"""Why training ended: labels were few, steps were done, or another step would not have ended in time."""


@dataclass(frozen=True)
class Trained:
    """``labels``: ``[H, W]`` int64, of the last forward pass, numbered as the network numbers them."""

    labels: Tensor
    history: list[StepRecord]
    stopped: Stopped


def train_on_image(
    image: Tensor,
    config: SegmenterConfig,
    on_step: OnStep | None = None,
    *,
    terms: ImageTerms = NO_TERMS,
    deadline: float | None = None,
    on_labels: OnLabels | None = None,
) -> Trained:
    """Trains a network on one image, on the image's device, until labels are few, steps are done or time is up.

    One step: forward, loss, backward, update. The labels are those of the last forward pass, so the last step ends
    after the loss: its gradient would change nothing.

    Args:
        image: ``[1, bands, H, W]`` float32.
        config: with ``precision`` resolved to float32 or bfloat16.
        terms: what else the loss is told.
        on_step: called after each step with its record; what it raises ends the training.
        deadline: the time of ``time.perf_counter`` that no step but the first should pass; None: there is none.
        on_labels: called after each step, and after ``on_step``, with the labels as well.

    Raises:
        ValueError: the loss is not finite any more.
    """
    with freed_memory_kept() if image.device.type == "cpu" else contextlib.nullcontext():
        return _train(image, config, on_step, terms, deadline, on_labels)


def _train(
    image: Tensor,
    config: SegmenterConfig,
    on_step: OnStep | None,
    terms: ImageTerms,
    deadline: float | None,
    on_labels: OnLabels | None,
) -> Trained:
    memory_format = _memory_format(config)
    image = image.contiguous(memory_format=memory_format)
    network = seeded_network(image.shape[1], config).to(image.device).to(memory_format=memory_format)  # type: ignore[call-overload]
    update = _sgd(network, config)
    history: list[StepRecord] = []
    clock = StepClock(deadline)
    weights = guide_weights(config.guide_weight, config.guide_fades, config.max_steps)
    while True:
        output, backward = loss_and_backward(network, image, config, terms, guide_weight=weights[len(history)])
        history.append(_record(len(history) + 1, output))
        check_finite(history[-1], image)
        if on_step is not None:
            on_step(history[-1])
        if on_labels is not None:
            on_labels(history[-1], output.labels[0].cpu().numpy())
        stopped = _stopped(history, config, terms, clock)
        if stopped is not None:
            return Trained(output.labels[0], history, stopped)
        network.zero_grad()
        backward()
        update()


def _sgd(network: SegmentationNetwork, config: SegmenterConfig) -> Callable[[], None]:
    """What ``torch.optim.SGD`` does in a step; the class itself imports the whole compiler of ``torch.compile``."""
    parameters: list[Tensor] = list(network.parameters())
    momenta: list[Tensor | None] = [None] * len(parameters)

    @torch.no_grad()
    def update() -> None:
        sgd(
            parameters,
            [parameter.grad for parameter in parameters],  # type: ignore[misc]  # a backward pass sets all of them
            momenta,
            lr=config.learning_rate,
            momentum=config.momentum,
            dampening=0.0,
            weight_decay=0.0,
            nesterov=False,
            maximize=False,
        )

    return update


def check_finite(record: StepRecord, image: Tensor) -> None:
    """ValueError, one line, where training has come to no end."""
    if not math.isfinite(record["loss"]):
        raise ValueError(
            f"the loss is {record['loss']} at step {record['step']}: the image's values, from {image.min():g} to "
            f"{image.max():g}, are too far from 0..1, or the learning rate is too high"
        )


def _stopped(history: list[StepRecord], config: SegmenterConfig, terms: ImageTerms, clock: StepClock) -> Stopped | None:
    if history[-1]["n_labels"] <= max(config.stop_labels, terms.least_labels):
        return "few_labels"
    if len(history) >= config.max_steps:
        return "max_steps"
    return None if clock.another_step_fits() else "time_budget"


def loss_and_backward(
    network: SegmentationNetwork,
    image: Tensor,
    config: SegmenterConfig,
    terms: ImageTerms,
    *,
    guide_weight: float | Tensor = 1.0,
    superpixel_count: int | None = None,
) -> tuple[DynamicLossOutput, Callable[[], None]]:
    """The loss, and what then sets the gradients of the parameters.

    Args:
        network: being trained.
        image: see ``train_on_image``, as for the two that follow.
        config: its ``loss`` is fused if there are terms.
        terms: what else the loss is told.
        guide_weight: what the guide counts in this step, if there is one; a number or ``[]``.
        superpixel_count: see ``ops.dynamic_loss``.
    """
    published = config.loss == "published"
    with torch.autocast(image.device.type, torch.bfloat16, enabled=config.precision == "bfloat16", cache_enabled=False):
        response = network(image) if published else network.before_last_norm(image)
    if published:
        output, grad_response = published_loss_and_grad(response, config.weighting, config.mu)
        return output, lambda: response.backward(grad_response)

    norm = network.last_norm
    output, grads = ops.batch_norm_dynamic_loss_and_grad(
        response,
        norm.weight,
        norm.bias,
        weighting=config.weighting,
        mu=config.mu,
        mask=terms.mask,
        superpixels=terms.superpixels,
        superpixel_count=superpixel_count,
        continuity=config.continuity,
        diagonals=config.diagonals,
        label_floor=terms.label_floor,
        scribbles=terms.scribbles,
        guide=terms.guide,
        guide_weight=guide_weight,
        eps=norm.eps,
    )

    def backward() -> None:
        response.backward(grads.grad_z)
        norm.weight.grad, norm.bias.grad = grads.grad_weight, grads.grad_bias

    return output, backward


def _memory_format(config: SegmenterConfig) -> torch.memory_format:
    """Channels last is the faster order for convolutions, but it also sums in another order.

    Training magnifies a difference in the last bit a thousand times within ten steps, so where the published numbers
    are wanted, it keeps to the order of the published loop.
    """
    return torch.contiguous_format if config.loss == "published" else torch.channels_last


def _record(step: int, output: DynamicLossOutput) -> StepRecord:
    return {
        "step": step,
        "loss": output.loss.item(),
        "similarity": output.similarity.item(),
        "continuity": output.continuity.item(),
        "weight": output.weight.item(),
        "n_labels": int(output.label_counts.item()),
    }
