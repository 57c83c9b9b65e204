"""One training step of each competitor of ``dynamicseg bench step``: forward, loss, backward, update.

All start from the same weights. The published step is written out as the scripts have it, operation for operation. The
compiled one is what PyTorch itself can make of a step: bfloat16, channels last, a loss of which no number goes through
Python, network and loss in one ``torch.compile``.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamicseg.bench.published import in_one_line
from dynamicseg.config import SegmenterConfig
from dynamicseg.model import SegmentationNetwork, seeded_network
from dynamicseg.ops._runtime import freed_memory_kept
from dynamicseg.trainer import NO_TERMS, loss_and_backward
from dynamicseg.weighting import DEFAULT_MU

Step: TypeAlias = Callable[[], "float | Tensor"]
"""Makes one training step and returns its loss; as a tensor where nothing has waited for it yet."""


_STEPS_TO_CAPTURE = 4  # the first ones of "reduce-overhead" compile, warm up and record


@dataclass(frozen=True)
class Competitor:
    """Steps, and what they run in."""

    step: Step
    memory: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    """Entered around a run of steps: ``freed_memory_kept``, or nothing, which is PyTorch's own way."""


def soft_image(size: tuple[int, int], device: str = "cpu") -> Tensor:
    """``[1, 3, height, width]`` float32 in 0..1: soft coloured areas with a little noise."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    coarse = torch.rand(1, 3, -(-height // 32) + 1, -(-width // 32) + 1, generator=generator)
    areas = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return (areas + 0.05 * torch.randn(1, 3, height, width, generator=generator)).clamp(0, 1).to(device)


def sgd(network: nn.Module, config: SegmenterConfig) -> torch.optim.Optimizer:
    """The published optimizer."""
    return torch.optim.SGD(network.parameters(), lr=config.learning_rate, momentum=config.momentum)


def published_step(image: Tensor, config: SegmenterConfig) -> Step:
    """As in the published scripts: eager PyTorch, float32, contiguous, maps of zeros, the count by way of numpy."""
    network = seeded_network(image.shape[1], config).to(image.device)
    optimizer = sgd(network, config)
    _, _, height, width = image.shape
    cross_entropy, vertical_l1, horizontal_l1 = nn.CrossEntropyLoss(), nn.L1Loss(), nn.L1Loss()
    vertical_zeros = torch.zeros(height - 1, width, config.channels, device=image.device)
    horizontal_zeros = torch.zeros(height, width - 1, config.channels, device=image.device)

    def step() -> float:
        optimizer.zero_grad()
        output = network(image)[0]
        output = output.permute(1, 2, 0).contiguous().view(-1, config.channels)
        grid = output.reshape(height, width, config.channels)
        continuity = vertical_l1(grid[1:] - grid[:-1], vertical_zeros) + horizontal_l1(
            grid[:, 1:] - grid[:, :-1], horizontal_zeros
        )
        target = output.argmax(dim=1)
        label_count = len(np.unique(target.cpu().numpy()))
        loss = cross_entropy(output, target) + label_count / DEFAULT_MU["fsf"] * continuity
        torch.autograd.backward(loss)
        optimizer.step()
        return float(loss.detach())

    return step


def our_step(image: Tensor, config: SegmenterConfig) -> Step:
    """The one of ``dynamicseg.trainer``."""
    network, image = in_format(image, config)
    optimizer = sgd(network, config)

    def step() -> Tensor:
        output, backward = loss_and_backward(network, image, config, NO_TERMS)
        optimizer.zero_grad()
        backward()
        optimizer.step()
        return output.loss.detach()

    return step


def in_format(image: Tensor, config: SegmenterConfig) -> tuple[SegmentationNetwork, Tensor]:
    """Network and image in the memory format of the training loop."""
    network = seeded_network(image.shape[1], config).to(image.device)
    if config.loss == "published":
        return network, image
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, image.contiguous(memory_format=torch.channels_last)


def tensor_loss(x: Tensor) -> Tensor:
    """The loss of one response map ``[1, C, H, W]`` in float32, its weight a tensor: nothing breaks a graph."""
    x = x.float()
    labels = x.argmax(dim=1, keepdim=True)
    similarity = (x.logsumexp(dim=1, keepdim=True) - x.gather(1, labels)).mean()
    continuity = (x[:, :, 1:] - x[:, :, :-1]).abs().mean() + (x[..., 1:] - x[..., :-1]).abs().mean()
    alive = torch.zeros(x.shape[1], dtype=x.dtype, device=x.device).scatter(0, labels.flatten(), 1.0)
    return similarity + alive.sum() / DEFAULT_MU["fsf"] * continuity


@dataclass(frozen=True)
class CompiledSteps:
    """Steps under ``torch.compile``, or why there are none."""

    steps: tuple[Step, ...]
    reason: str | None = None
    """In one line, where there are none."""
    seconds: float | None = None
    """What the first steps took, compilation included."""


def compiled_steps(image: Tensor, config: SegmenterConfig, count: int) -> CompiledSteps:
    """``count`` networks under one ``torch.compile``: bfloat16 by autocast where ``config`` says so, channels last.

    On a GPU with ``mode="reduce-overhead"``, which is CUDA graphs. Each has made steps until nothing is left to
    compile, and was then given its first weights again.
    """
    start = time.perf_counter()
    torch.compiler.reset()

    def forward(network: nn.Module, image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            response = network(image)
        return tensor_loss(response)

    compiled = torch.compile(forward, mode="reduce-overhead" if image.device.type == "cuda" else None)
    steps = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what the compiler itself uses
            for _ in range(count):
                steps.append(_compiled_step(compiled, image, config))
    except Exception as error:  # compilers fail with every type; a comparison goes on without one
        return CompiledSteps((), in_one_line(error))
    return CompiledSteps(tuple(steps), None, time.perf_counter() - start)


def _compiled_step(compiled: Callable[..., Any], image: Tensor, config: SegmenterConfig) -> Step:
    network, image = in_format(image, config)
    first_weights = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = sgd(network, config)

    def step() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad()
        loss: Tensor = compiled(network, image)
        loss.backward()
        optimizer.step()
        return loss.detach().clone()  # a graph writes the next loss to the same place

    for _ in range(_STEPS_TO_CAPTURE if image.device.type == "cuda" else 1):
        step()
    network.load_state_dict(first_weights)
    optimizer.state.clear()
    return step


def competitors(
    image: Tensor, paper: SegmenterConfig, fused: SegmenterConfig, compiled: CompiledSteps
) -> dict[str, Competitor]:
    """All of them, by name; but the CUDA graph of a GPU, see ``cuda_steps``."""
    memory = freed_memory_kept if image.device.type == "cpu" else contextlib.nullcontext
    found = {
        "published": Competitor(published_step(image, paper)),
        "paper": Competitor(our_step(image, paper), memory),
        "fused": Competitor(our_step(image, fused), memory),
    }
    if compiled.steps:
        found["compiled"] = Competitor(compiled.steps[0])
    for step in compiled.steps[1:]:
        found["compiled, memory kept"] = Competitor(step, memory)
    return found
