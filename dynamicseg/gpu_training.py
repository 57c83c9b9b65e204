"""Training on a GPU: steps follow one another without a word to the processor, and are replayed as one CUDA graph.

Label counts, weights and losses stay on the GPU; they are read every few steps, for whoever watches and to see whether
labels are few. A step that comes after the one that should have been the last changes nothing: from there on the
learning rate is 0, and the labels of an unchanged network on the same image are the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamicseg._words import in_one_line
from dynamicseg.config import SegmenterConfig
from dynamicseg.devices import repeatable_convolutions
from dynamicseg.image_terms import ImageTerms, guide_weights
from dynamicseg.model import seeded_network
from dynamicseg.ops import DynamicLossOutput, _runtime
from dynamicseg.time_budget import StepClock
from dynamicseg.trainer import NO_TERMS, OnLabels, OnStep, StepRecord, Stopped, Trained, check_finite, loss_and_backward

# Steps between two looks at what they gave. A look waits for the GPU; a step after the last is work for nothing.
_STEPS_BETWEEN_LOOKS = 8
# What was prepared for so many numbers and sizes of images is kept, the last used: in a folder they take turns.
_KEPT = 4
# Superpixels of most photos are fewer, and a step prepared for more of them serves all these.
_SUPERPIXELS = 4096
# What cuDNN and the allocator prepare, they prepare in the first steps; a graph wants none of it.
_STEPS_BEFORE_CAPTURE = 2


class TrainingStep:
    """One network, one image, and a step that takes nothing from the processor and gives nothing back to it.

    Args:
        image: ``[1, bands, H, W]`` float32.
        config: with ``precision`` resolved, and ``loss`` fused.
        terms: what else the loss is told.
        superpixel_count: above the numbers of superpixels; None without them.

    Attributes:
        labels: ``[H, W]`` int64, of the last step.
        stop_labels: after a step with so few labels there is none.
    """

    def __init__(
        self,
        image: Tensor,
        config: SegmenterConfig,
        terms: ImageTerms,
        superpixel_count: int | None,
    ) -> None:
        self._config = config
        self._image = image.contiguous(memory_format=torch.channels_last).clone(memory_format=torch.channels_last)
        self._terms = terms.copied()
        self._superpixel_count = superpixel_count
        device = image.device
        self._network = seeded_network(image.shape[1], config).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._parameters = list(self._network.parameters())
        self._initial = [parameter.detach().clone() for parameter in self._parameters]
        self._momenta = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._learning_rate = torch.zeros((), device=device)
        self._stop_labels = torch.zeros((), dtype=torch.int64, device=device)
        weights = guide_weights(config.guide_weight, config.guide_fades, config.max_steps)
        # The steps before the capture come on top, and none counts.
        self._guide_weights = torch.cat([weights, weights.new_zeros(_STEPS_BEFORE_CAPTURE)]).to(device)
        self._steps_done = torch.zeros(1, dtype=torch.int64, device=device)
        self._records = torch.zeros(config.max_steps + _STEPS_BEFORE_CAPTURE, 5, dtype=torch.float64, device=device)
        self.labels = torch.zeros(image.shape[2:], dtype=torch.int64, device=device)
        self.begin_again(image, terms)

    def begin_again(self, image: Tensor, terms: ImageTerms) -> None:
        """With the network as it was at first, on another image of the same size, with terms of the same kind."""
        with torch.no_grad():
            self._image.copy_(image)
            self._terms.overwrite(terms)
            self.stop_labels = max(self._config.stop_labels, terms.least_labels)
            self._stop_labels.fill_(self.stop_labels)
            torch._foreach_copy_(self._parameters, self._initial)
            torch._foreach_zero_(self._momenta)
            self._learning_rate.fill_(self._config.learning_rate)
            self._steps_done.zero_()

    def run(self) -> None:
        """Forward, loss, backward, and an update if labels are not few yet."""
        output, backward = loss_and_backward(
            self._network,
            self._image,
            self._config,
            self._terms,
            guide_weight=self._guide_weights.index_select(0, self._steps_done)[0],
            superpixel_count=self._superpixel_count,
        )
        self._records.index_copy_(0, self._steps_done, _row(output))
        self._steps_done += 1
        self.labels.copy_(output.labels[0])
        for parameter in self._parameters:
            parameter.grad = None
        backward()
        with torch.no_grad():
            self._learning_rate *= output.label_counts[0] > self._stop_labels
            gradients = [parameter.grad for parameter in self._parameters]
            torch._foreach_mul_(self._momenta, self._config.momentum)
            torch._foreach_add_(self._momenta, gradients)
            torch._foreach_sub_(self._parameters, torch._foreach_mul(self._momenta, self._learning_rate))

    @property
    def losses(self) -> Tensor:
        """``[steps]`` float64, by step from 0; those that are not done yet have no meaning."""
        return self._records[:, 0]

    def records(self, begin: int, end: int) -> list[StepRecord]:
        """Of steps ``begin`` to ``end``, from 0. Waits until they are done."""
        return [
            {
                "step": begin + offset + 1,
                "loss": loss,
                "similarity": similarity,
                "continuity": continuity,
                "weight": weight,
                "n_labels": int(label_count),
            }
            for offset, (loss, similarity, continuity, weight, label_count) in enumerate(
                self._records[begin:end].tolist()
            )
        ]


def _row(output: DynamicLossOutput) -> Tensor:
    numbers = (output.loss, output.similarity, output.continuity, output.weight, output.label_counts)
    return torch.stack([number[0].double() for number in numbers])[None]


@dataclass
class PreparedSteps:
    """Steps for images of one size; ``run`` makes one of each, and waits for nothing."""

    steps: list[TrainingStep]
    run: Callable[[], None]


class GpuTrainer:
    """Trains on image after image; what was captured for one serves later ones of the same size.

    Args:
        config: with ``device`` and ``precision`` resolved, and ``loss`` fused.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        self._config = config
        self._kept: dict[tuple[object, ...], PreparedSteps] = {}  # the last used last

    def __getstate__(self) -> dict[str, object]:
        return {"_config": self._config, "_kept": {}}  # a graph belongs to its process

    def train(
        self,
        image: Tensor,
        on_step: OnStep | None = None,
        *,
        terms: ImageTerms = NO_TERMS,
        deadline: float | None = None,
    ) -> Trained:
        """As ``trainer.train_on_image``, but steps are told in groups, a little late."""
        return self.train_together([image], [on_step], terms=[terms], deadline=deadline)[0]

    def train_together(
        self,
        images: Sequence[Tensor],
        on_step: Sequence[OnStep | None] | None = None,
        *,
        terms: Sequence[ImageTerms] | None = None,
        deadline: float | None = None,
        on_labels: OnLabels | None = None,
    ) -> list[Trained]:
        """A network of its own for each image, side by side: one small image does not keep a GPU busy.

        Args:
            images: each ``[1, bands, H, W]`` float32, all of one size.
            on_step: for each image, see ``trainer.train_on_image``.
            terms: for each image, all of one kind; None: the loss is told nothing else.
            deadline: see ``trainer.train_on_image``.
            on_labels: of the first image, see ``trainer.train_on_image``; the GPU is waited for after each step.

        Raises:
            ValueError: sizes or kinds of terms differ, or a loss is not finite any more.
            torch.OutOfMemoryError: the GPU has too little memory.
        """
        if len({image.shape for image in images}) != 1:
            sizes = " and ".join(sorted({f"{image.shape[3]}x{image.shape[2]}" for image in images}))
            raise ValueError(f"images of {sizes or 'no'} pixels cannot be trained on together: pass images of one size")
        watchers = [None] * len(images) if on_step is None else list(on_step)
        try:
            with repeatable_convolutions(float32=self._config.precision == "float32"):
                return self._train(
                    images, [NO_TERMS] * len(images) if terms is None else terms, watchers, deadline, on_labels
                )
        except torch.OutOfMemoryError:
            self._forget()  # for the next image
            raise

    def _train(
        self,
        images: Sequence[Tensor],
        terms: Sequence[ImageTerms],
        watchers: Sequence[OnStep | None],
        deadline: float | None,
        on_labels: OnLabels | None,
    ) -> list[Trained]:
        prepared = self._prepare(images, terms)
        histories: list[list[StepRecord]] = [[] for _ in images]
        clock = StepClock(deadline)
        done = 0
        while True:
            one_by_one = deadline is not None or on_labels is not None
            group = 1 if one_by_one else min(_STEPS_BETWEEN_LOOKS, self._config.max_steps - done)
            for _ in range(group):
                prepared.run()
            for step, history, watcher, image in zip(prepared.steps, histories, watchers, images, strict=True):
                for record in step.records(done, done + group):
                    if history and history[-1]["n_labels"] <= step.stop_labels:
                        break
                    check_finite(record, image)
                    history.append(record)
                    if watcher is not None:
                        watcher(record)
            if on_labels is not None and len(histories[0]) > done:
                on_labels(histories[0][-1], prepared.steps[0].labels.cpu().numpy())
            done += group
            reasons = [
                self._stopped(history, done, step) for history, step in zip(histories, prepared.steps, strict=True)
            ]
            if None in reasons and not clock.another_step_fits():
                reasons = [reason or "time_budget" for reason in reasons]
            if None not in reasons:
                return [
                    Trained(step.labels.clone(), history, reason)
                    for step, history, reason in zip(prepared.steps, histories, reasons, strict=True)
                    if reason is not None
                ]

    def _stopped(self, history: list[StepRecord], done: int, step: TrainingStep) -> Stopped | None:
        if history[-1]["n_labels"] <= step.stop_labels:
            return "few_labels"
        return "max_steps" if done >= self._config.max_steps else None

    def prepare(self, images: Sequence[Tensor], terms: Sequence[ImageTerms] | None = None) -> PreparedSteps:
        """Steps at their beginning, captured now or for earlier images of the same size; see ``train_together``."""
        with repeatable_convolutions(float32=self._config.precision == "float32"):
            return self._prepare(images, [NO_TERMS] * len(images) if terms is None else terms)

    def _prepare(self, images: Sequence[Tensor], terms: Sequence[ImageTerms]) -> PreparedSteps:
        counts = [_superpixel_count(one.superpixels) for one in terms if one.superpixels is not None]
        count = max(counts, default=None)
        kinds = {one.kind for one in terms}
        if len(kinds) != 1:
            raise ValueError("images with other terms of the loss cannot be trained on together")
        size = (len(images), images[0].shape, count, *kinds)
        prepared = self._kept.pop(size, None) or self._steps(size, images, terms, count)
        self._kept[size] = prepared
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]
        for step, image, one in zip(prepared.steps, images, terms, strict=True):
            step.begin_again(image, one)
        return prepared

    def _steps(
        self, size: tuple[object, ...], images: Sequence[Tensor], terms: Sequence[ImageTerms], count: int | None
    ) -> PreparedSteps:
        def new() -> PreparedSteps:
            steps = [TrainingStep(image, self._config, one, count) for image, one in zip(images, terms, strict=True)]
            return PreparedSteps(steps, _captured(steps, images[0].device))

        try:
            return new()
        except torch.OutOfMemoryError:
            if not self._kept:
                raise
        self._forget()  # outside of the except clause, which holds on to what was begun
        return new()

    def _forget(self) -> None:
        """Gives back the memory of all that was prepared."""
        self._kept.clear()
        torch.cuda.empty_cache()


def _superpixel_count(superpixels: Tensor) -> int:
    """Above the numbers of the superpixels, and the same for most images of one size, so that a graph serves them."""
    highest = int(superpixels.max())
    return min(max(_SUPERPIXELS, 1 << highest.bit_length()), superpixels[0].numel())


# ---- CUDA graphs -----------------------------------------------------------------------------------------------------


def _captured(steps: Sequence[TrainingStep], device: torch.device) -> Callable[[], None]:
    """What runs a step of each: a CUDA graph where there can be one."""
    one_by_one = functools.partial(_one_after_the_other, steps)
    if why_no_graph(device):
        return one_by_one
    beside = torch.cuda.Stream(device)
    beside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(beside):
        for _ in range(_STEPS_BEFORE_CAPTURE):
            one_by_one()
    torch.cuda.current_stream(device).wait_stream(beside)
    try:
        return _capture(lambda: _side_by_side(steps, device), device).replay
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        _NO_GRAPH[device] = in_one_line(error)
        return one_by_one


def _capture(body: Callable[[], None], device: torch.device) -> torch.cuda.CUDAGraph:
    """A graph of what ``body`` starts. Where that fails, the stream is what it was, and a lack of memory is named."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        before = torch.cuda.current_stream(device)
        try:
            # A stream of this device: PyTorch's own is of the device that was first. Other threads may go on.
            with torch.cuda.graph(graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"):
                body()
        except RuntimeError as error:
            torch.cuda.set_stream(before)
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, torch.OutOfMemoryError):
                cause = cause.__context__
            raise (cause or error) from None
    return graph


def _one_after_the_other(steps: Sequence[TrainingStep]) -> None:
    for step in steps:
        step.run()


def _side_by_side(steps: Sequence[TrainingStep], device: torch.device) -> None:
    """Each on a stream of its own, so that the graph has as many branches."""
    main = torch.cuda.current_stream(device)
    streams = [torch.cuda.Stream(device) for _ in steps[1:]]
    for step, stream in zip(steps[1:], streams, strict=True):
        stream.wait_stream(main)
        with torch.cuda.stream(stream):
            step.run()
    steps[0].run()
    for stream in streams:
        main.wait_stream(stream)


_NO_GRAPH: dict[torch.device, str] = {}
"""Why a capture has failed, or nothing where one has been tried and did not."""


def why_no_graph(device: torch.device) -> str:
    """Why steps on ``device`` are started one by one; empty where they are replayed as a CUDA graph."""
    if device.type != "cuda":
        return "CUDA graphs are for GPUs"
    if _runtime.backend_for(device) != "cuda":
        return _runtime.why(device)
    if device not in _NO_GRAPH:
        number = torch.zeros((), device=device)
        try:
            _capture(lambda: _count(number), device).replay()
            torch.cuda.synchronize(device)
            _NO_GRAPH[device] = ""
        except torch.OutOfMemoryError:
            raise  # which passes
        except RuntimeError as error:
            _NO_GRAPH[device] = in_one_line(error)
    return _NO_GRAPH[device]


def _count(number: Tensor) -> None:
    number += 1
