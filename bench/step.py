"""``dynamicseg bench step``: a training step against the published one in eager PyTorch and under ``torch.compile``.

Competitors, all from the same weights, on one image (see ``step_competitors``):

- ``published``: the scripts' step in eager PyTorch, float32, contiguous: what their users run;
- ``paper``: ours with ``preset="paper"``, which gives the losses of the published one to the bit;
- ``fused``: ours with the fused ops, channels last, bfloat16 where the processor has it (``precision="auto"``);
- ``fused, CUDA graph``: the same, captured and replayed as ``segment`` does; on GPUs alone;
- ``compiled``: the best that ``torch.compile``, autocast and channels last make of a step without our ops.

Memory matters as much as arithmetic: our training loop has the C library keep freed memory for the next step, and our
steps run so here. The others run without, as in any PyTorch program; ``compiled, memory kept`` is given it as well.

Competitors take turns. In each turn a competitor makes some steps, of which the first is not measured: it finds caches
and memory as another one has left them. On a GPU the others of a turn are measured together, from the call of the first
to the end of the last, so that a competitor that never waits for the GPU has its gain.

What a report holds, all of it JSON-able:

- ``schema_version``, ``benchmark`` (``"step"``), ``environment``, ``settings``;
- ``compiled``: ``ok``, ``reason`` (why there is none), ``seconds`` (its first steps, compilation included);
- ``copy_gb_per_s``: of ``Tensor.copy_`` for a map of the network, on a GPU for one of 1 GiB; reads and writes added;
- ``results``: one entry for each competitor: ``ms`` (``median``, ``q20``, ``q80``), ``speedup_over_published``,
  ``speedup_over_compiled`` (ratios of medians; None: not measured), ``losses`` of its first steps and
  ``first_loss_difference``, relative to the published one;
- ``parts``: of the fused step, ``ms`` of each part, measured apart: convolutions, ReLU with batch norm, the last batch
  norm with the loss, update; on a GPU the time there, between two events;
- ``limit``: ``ms`` (the convolutions, and the bytes that the fused ops read and write at the speed of the copy),
  ``convolutions_ms``, ``fused_bytes``, and ``times_limit`` of the fused step, on a GPU of its CUDA graph;
- ``together``: on a GPU, several images at a time, see ``cuda_steps.several_at_a_time``; else None.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dynamicseg import ops
from dynamicseg.bench import cuda_steps
from dynamicseg.bench.cuda_timing import EventClock, EventStopwatch, copy_bandwidths, warm_up
from dynamicseg.bench.environment import environment
from dynamicseg.bench.step_competitors import (
    Competitor,
    CompiledSteps,
    Step,
    competitors,
    compiled_steps,
    in_format,
    sgd,
    soft_image,
)
from dynamicseg.bench.timing import (
    MILLISECONDS,
    Stopwatch,
    Timing,
    check_device,
    copy_bandwidth,
    threads_set_to,
)
from dynamicseg.config import SegmenterConfig, configure
from dynamicseg.ops._runtime import freed_memory_kept, why
from dynamicseg.segmenter import Segmenter

SCHEMA_VERSION = 2

Progress: TypeAlias = Callable[[str], None]

_COMPARED_LOSSES = 4
# Times that a map of the network is read or written, at least: see the kernel files.
_MAPS_OF_HIDDEN_LAYER = 3 + 5
_MAPS_OF_HEAD = 1 + 1 + 2 + 3


@dataclass(frozen=True)
class Settings:
    """What is measured; the arguments of ``run``, checked."""

    size: tuple[int, int]
    channels: int
    depth: int
    repeats: int
    steps: int
    threads: int | None
    device: str
    compile: bool

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 2:
            raise ValueError(f"size is {'x'.join(map(str, self.size))}: pass height and width, both at least 2")
        for name, least in (("channels", 4), ("depth", 1), ("repeats", 1), ("steps", 1), ("threads", 1)):
            count = getattr(self, name)
            if count is not None and count < least:
                raise ValueError(f"{name} is {count}: pass at least {least}")
        check_device(self.device)


def run(
    *,
    size: tuple[int, int] = (321, 481),
    channels: int = 100,
    depth: int = 2,
    repeats: int = 5,
    steps: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    compile: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures a training step of all competitors.

    Args:
        size: height and width of the image, in pixels, both >= 2.
        channels: width of the network, and number of candidate labels, >= 4.
        depth: number of 3x3 convolutions, >= 1.
        repeats: turns of each competitor, >= 1.
        steps: measured steps in a turn, >= 1; None: 2, on a GPU 20.
        threads: for PyTorch and the kernels, >= 1; None leaves PyTorch's number. Put back afterwards.
        device: ``"cpu"`` or ``"cuda"``.
        compile: whether ``torch.compile`` takes part.
        progress: told what is being done, in a few words.

    Returns:
        The report, as described at the top of this file.

    Raises:
        ValueError: an argument is out of its range.
        RuntimeError: our steps disagree with the published one: their times would mean nothing.
    """
    steps = steps if steps is not None else 20 if device == "cuda" else 2
    settings = Settings(size, channels, depth, repeats, steps, threads, device, compile)
    tell = progress or (lambda _: None)
    with threads_set_to(threads):
        image = soft_image(size, device)
        paper, fused = configurations(settings)
        compiled = CompiledSteps((), "not asked for")
        if compile:
            tell("torch.compile")
            compiled = compiled_steps(image, fused, 2 if device == "cpu" else 1)
        cases = competitors(image, paper, fused, compiled)
        if device == "cuda":
            cases[cuda_steps.GRAPH] = Competitor(cuda_steps.graph_step(image, fused))
            warm_up()
        timings, losses = alternate(cases, settings, tell)
        check_agreement(losses, device)
        tell("parts of the fused step")
        parts = parts_of_step(image, fused, settings)
        map_bytes = math.prod(size) * channels * (2 if fused.precision == "bfloat16" else 4)
        if device == "cpu":
            bandwidth = copy_bandwidth(map_bytes)
        else:
            bandwidth = copy_bandwidths(EventClock())["large"]["gb_per_s"]
        best = timings[cuda_steps.GRAPH if device == "cuda" else "fused"]
        return {
            "schema_version": SCHEMA_VERSION,
            "benchmark": "step",
            "environment": environment()
            | {"backend": why(torch.device(device)), "tf32": torch.backends.cudnn.allow_tf32},
            "settings": asdict(settings) | {"size": list(size), "precision": fused.precision},
            "compiled": {"ok": bool(compiled.steps), "reason": compiled.reason, "seconds": compiled.seconds},
            "copy_gb_per_s": bandwidth,
            "results": _results(timings, losses),
            "parts": {name: timing.as_dict() for name, timing in parts.items()},
            "limit": _limit(parts, best, map_bytes, depth, bandwidth),
            "together": None
            if device == "cpu"
            else cuda_steps.several_at_a_time(size, fused, settings.repeats, settings.steps, tell),
        }


def configurations(settings: Settings) -> tuple[SegmenterConfig, SegmenterConfig]:
    """Of the paper step, and of the fused one."""
    chosen = {"channels": settings.channels, "depth": settings.depth, "device": settings.device}
    precision = Segmenter(preset="fast", device=settings.device).config.precision  # what auto is there
    return configure("paper", **chosen), configure("paper", precision=precision, loss="fused", **chosen)


# ---- measurement -----------------------------------------------------------------------------------------------------


def alternate(
    cases: dict[str, Competitor], settings: Settings, tell: Progress
) -> tuple[dict[str, Timing], dict[str, list[float]]]:
    """Times of steps, and losses of all steps, by competitor; each round begins with another one."""
    names = list(cases)
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, list[float | Tensor]] = {name: [] for name in names}
    measured = _each_step if settings.device == "cpu" else _all_steps
    for turn in range(settings.repeats):
        tell(f"round {turn + 1} of {settings.repeats}")
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            with cases[name].memory():
                losses[name].append(cases[name].step())
                times, of_steps = measured(cases[name].step, settings.steps)
            milliseconds[name] += times
            losses[name] += of_steps
    numbers = {name: [float(loss) for loss in of_competitor] for name, of_competitor in losses.items()}
    return {name: Timing(tuple(times)) for name, times in milliseconds.items()}, numbers


def _each_step(step: Step, count: int) -> tuple[list[float], list[float | Tensor]]:
    """Milliseconds and losses of steps that have been made when they return."""
    times, losses = [], []
    for _ in range(count):
        start = time.perf_counter()
        losses.append(step())
        times.append((time.perf_counter() - start) * MILLISECONDS)
    return times, losses


def _all_steps(step: Step, count: int) -> tuple[list[float], list[float | Tensor]]:
    """Milliseconds of one of several steps that a GPU makes one after the other, and the losses of all."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    losses = [step() for _ in range(count)]
    torch.cuda.synchronize()
    return [(time.perf_counter() - start) * MILLISECONDS / count], losses


def check_agreement(losses: dict[str, list[float]], device: str) -> None:
    """RuntimeError unless our steps begin with the published loss; ``paper`` goes on with it, on the CPU to the bit."""
    if device == "cpu" and losses["paper"] != losses["published"]:
        raise RuntimeError(f"paper disagrees with the published step: {losses['paper']}, {losses['published']}")
    first = losses["published"][0]
    for name, tolerance in (("paper", 0.001), ("fused", 0.02), (cuda_steps.GRAPH, 0.02)):
        if name in losses and not abs(losses[name][0] - first) <= tolerance * abs(first):
            raise RuntimeError(f"{name} disagrees with the published step: {losses[name][0]}, {first}")


def parts_of_step(image: Tensor, config: SegmenterConfig, settings: Settings) -> dict[str, Timing]:
    """Times of the parts of the fused step: the same calls, with autograd cut between them."""
    network, image = in_format(image, config)
    optimizer = sgd(network, config)
    *hidden, last_convolution, _ = network.layers
    norm = network.last_norm
    blocks = [(hidden[i], hidden[i + 2]) for i in range(0, len(hidden), 3)]
    stopwatch = Stopwatch() if settings.device == "cpu" else EventStopwatch()

    def timed(part: str, call: Callable[..., Any], *arguments: Any) -> Any:
        with stopwatch.part(part):
            return call(*arguments)

    def forward(convolution: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            z: Tensor = timed("convolutions, forward", convolution, x)
            return z

    def step() -> None:
        optimizer.zero_grad()
        x, tape = image, []
        for convolution, block_norm in blocks:
            z = forward(convolution, x)
            leaf = z.detach().requires_grad_()
            y = timed("ReLU + batch norm, forward", ops.relu_batch_norm, leaf, block_norm.weight, block_norm.bias)
            tape.append((x, z, leaf, y))
            x = y.detach().requires_grad_()
        z = forward(last_convolution, x)
        _, grads = timed("batch norm + loss", ops.batch_norm_dynamic_loss_and_grad, z, norm.weight, norm.bias)
        norm.weight.grad, norm.bias.grad = grads.grad_weight, grads.grad_bias
        timed("convolutions, backward", z.backward, grads.grad_z)
        while tape:
            grad_y = x.grad
            x, z, leaf, y = tape.pop()
            timed("ReLU + batch norm, backward", y.backward, grad_y)
            timed("convolutions, backward", z.backward, leaf.grad)
        timed("update", optimizer.step)

    with freed_memory_kept():
        rounds = [stopwatch.milliseconds(step) for _ in range(1 + settings.repeats * settings.steps)]
    return {part: Timing(tuple(one[part] for one in rounds[1:])) for part in rounds[0]}


def _results(timings: dict[str, Timing], losses: dict[str, list[float]]) -> list[dict[str, Any]]:
    compiled = timings.get("compiled")
    first = losses["published"][0]
    return [
        {
            "competitor": name,
            "ms": timing.as_dict(),
            "speedup_over_published": timings["published"].median / timing.median,
            "speedup_over_compiled": compiled.median / timing.median if compiled else None,
            "losses": losses[name][:_COMPARED_LOSSES],
            "first_loss_difference": abs(losses[name][0] - first) / abs(first),
        }
        for name, timing in timings.items()
    ]


def _limit(parts: dict[str, Timing], fused: Timing, map_bytes: int, depth: int, gb_per_s: float) -> dict[str, float]:
    fused_bytes = (depth * _MAPS_OF_HIDDEN_LAYER + _MAPS_OF_HEAD) * map_bytes
    convolutions = sum(timing.median for part, timing in parts.items() if part.startswith("convolutions"))
    limit = convolutions + fused_bytes / gb_per_s / 1e6
    return {
        "ms": limit,
        "convolutions_ms": convolutions,
        "fused_bytes": fused_bytes,
        "times_limit": fused.median / limit,
    }
