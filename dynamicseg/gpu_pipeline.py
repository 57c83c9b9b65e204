"""A folder of images on one GPU: processes prepare images and finish results, and this one trains beside them.

    read, check, group        train, several side by side        regions, save
    in processes              here, in a thread of its own       in processes

Nothing waits for a certain image. A process that is free finishes what the GPU is done with, else prepares what comes
next. A GPU that is free takes the image that has been ready longest, with others of its shape as far as they are ready.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import torch

from dynamicseg.inputs import InputImage
from dynamicseg.training_memory import available_on, images_that_fit
from dynamicseg.workers import POLL_SECONDS, Outcome, Show, ShowImage, Worker, ended_with_the_block, failure

if TYPE_CHECKING:
    from dynamicseg.segment_work import SegmentWork
    from dynamicseg.segmenter import Learned, Prepared

_TOGETHER = 8
"""Images side by side at the most."""
_UNDER_WAY = 2 * _TOGETHER
"""Images beside those that processes are at: one group on the GPU, and the next."""
_WAITING_BYTES = 1_600_000_000
"""Of images that are at no process: 32 megapixels in colour. Above it no other image is begun."""
_BYTES_OF_GROUPING = 20
"""A pixel: its superpixel, and the coarser segmentations."""


def in_stages(images: Iterable[InputImage], work: SegmentWork, show: ShowImage) -> Generator[Outcome, None, None]:
    """Segments each image, with ``work.jobs`` processes beside the GPU; outcomes come as they are ready.

    Labels are to the bit those of one image after another. An image that fails ends no other. With a time budget
    images are trained on one by one, for side by side each would pay for the steps of the others. For leaving early
    see ``Work.outcomes``.
    """
    return _Pipeline(images, work, show).run()


@dataclass(frozen=True, eq=False)
class _Ready:
    """An image for the GPU."""

    image: InputImage
    prepared: Prepared

    @property
    def nbytes(self) -> int:
        """About how much memory it takes; that of many bands takes many times that of a photo."""
        values = self.prepared.values
        beside = 2 * values.nbytes + _BYTES_OF_GROUPING * math.prod(values.shape[:2])  # values, colours, superpixels
        return self.prepared.image.nbytes + beside


@dataclass(frozen=True, eq=False)
class _Trained(_Ready):
    """An image that the GPU is done with."""

    learned: Learned


class _LeftEarly(BaseException):
    """Ends a training whose result nobody waits for any more."""


class _Pipeline:
    def __init__(self, images: Iterable[InputImage], work: SegmentWork, show: ShowImage) -> None:
        self._waiting = iter(images)
        self._work = work
        self._show = show
        self._device = torch.device(work.segmenter.config.device)
        self._available = available_on(self._device)
        self._under_way = 0  # images, from their beginning to their outcome
        self._workers: list[Worker[Prepared]] = []
        self._ready: list[_Ready] = []
        self._group: list[_Ready] = []
        self._training: Future[list[_Trained | Outcome]] | None = None
        self._trained: list[_Trained] = []
        self._steps: SimpleQueue[tuple[InputImage, int, str]] = SimpleQueue()  # told by the thread that trains
        self._left_early = threading.Event()

    def run(self) -> Generator[Outcome, None, None]:
        with ThreadPoolExecutor(1) as gpu, ended_with_the_block(self._workers):
            try:
                while True:
                    self._begin_training(gpu)
                    self._begin_work()
                    running = self._running()
                    if not running:
                        return
                    wait(running, POLL_SECONDS, FIRST_COMPLETED)
                    for outcome in self._collect():
                        self._under_way -= 1
                        yield outcome
            finally:
                self._left_early.set()

    def _running(self) -> list[Future[Any]]:
        of_workers = [worker.future for worker in self._workers if worker.future is not None]
        return of_workers if self._training is None else [*of_workers, self._training]

    def _begin_work(self) -> None:
        """Every process that is free gets something to do; there are no more of them than images."""
        for worker in self._workers:
            if worker.future is None and self._trained:
                done = self._trained.pop(0)
                worker.begin(done.image, self._work.complete, done.prepared, done.learned)
            elif worker.future is None and (image := self._next_image()) is not None:
                worker.begin(image, self._work.prepare, self._available)
        while len(self._workers) < self._work.jobs and (image := self._next_image()) is not None:
            self._workers.append(Worker(threads=1))
            self._workers[-1].begin(image, self._work.prepare, self._available)

    def _next_image(self) -> InputImage | None:
        """None also where enough are under way."""
        waiting_bytes = sum(one.nbytes for one in (*self._ready, *self._group, *self._trained))
        if self._under_way >= self._work.jobs + _UNDER_WAY or waiting_bytes > _WAITING_BYTES:
            return None
        image = next(self._waiting, None)
        self._under_way += image is not None
        return image

    def _begin_training(self, gpu: ThreadPoolExecutor) -> None:
        if self._training is None and self._ready:
            self._group = self._next_group()
            self._ready = [one for one in self._ready if one not in self._group]
            self._training = gpu.submit(self._train, self._group)

    def _next_group(self) -> list[_Ready]:
        config = self._work.segmenter.config
        shape, kind = self._ready[0].prepared.values.shape, self._ready[0].prepared.kind
        alike = [one for one in self._ready if one.prepared.kind == kind]
        most = 1 if config.time_budget is not None else min(len(alike), _TOGETHER)
        try:
            fitting = images_that_fit(shape, config, self._device, most)
        except RuntimeError:  # the GPU is out of order: training says so, of each image
            fitting = 1
        # A power of two: of few sizes of groups each comes again, and finds its step captured.
        return alike[: 1 << (fitting.bit_length() - 1)]

    def _train(self, group: list[_Ready]) -> list[_Trained | Outcome]:
        try:
            learned = self._work.segmenter.train_together(
                [one.prepared for one in group], [self._work.on_step(self._show_of(one.image)) for one in group]
            )
            return [_Trained(one.image, one.prepared, of_one) for one, of_one in zip(group, learned, strict=True)]
        except Exception as error:
            if len(group) == 1:
                return [failure(group[0].image, error)]
        # What does not fit together may fit alone, and an image whose loss is not finite takes no other with it.
        return [result for one in group for result in self._train([one])]

    def _show_of(self, image: InputImage) -> Show:
        def show(step: int, state: str) -> None:
            if self._left_early.is_set():
                raise _LeftEarly
            self._steps.put((image, step, state))

        return show

    def _collect(self) -> Iterator[Outcome]:
        """What has ended; images that have not failed go on to their next stage."""
        training = self._training if self._training is not None and self._training.done() else None
        while not self._steps.empty():
            self._show(*self._steps.get())
        if training is not None:
            results = training.result()
            self._training, self._group = None, []
            self._trained += [result for result in results if isinstance(result, _Trained)]
            yield from (result for result in results if isinstance(result, Outcome))
        for worker in self._workers:
            image = worker.image
            worker.pass_on(self._show)
            result = worker.outcome()
            if isinstance(result, Outcome):
                yield result
            elif result is not None and image is not None:
                self._ready.append(_Ready(image, result))
