"""Working on several images at a time, each in a process of its own.

Each worker is an executor with a single process. If the system kills it, for example because memory ran out, its
executor is broken, and with it the one image that it was at; a new one takes its place. A single executor for all
workers would give up all images together, and could not say which one was at fault.
"""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from dynamicseg._words import in_one_line
from dynamicseg.exit_status import TERMINATED
from dynamicseg.inputs import InputImage
from dynamicseg.interrupts import interrupts_held_back
from dynamicseg.segmentation import is_saved

Show = Callable[[int, str], None]
"""Told while an image is worked on: how many steps are done, and the state in words."""
ShowImage = Callable[[InputImage, int, str], None]
"""The same, of which image."""

POLL_SECONDS = 0.1

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What became of an image; ``text`` is one line that starts with its path."""

    image: InputImage
    failed: bool
    text: str


@dataclass(frozen=True)
class Work:
    """What is done with each image: read, worked on, saved. What derives from it says how."""

    output: Path
    formats: tuple[str, ...]
    channel_axis: int | None
    jobs: int = 1
    """How many images are worked on at a time."""

    def do(self, image: InputImage, show: Show) -> Outcome:
        """Whatever the image meets becomes its outcome; only what ends the whole run is raised."""
        try:
            return Outcome(image, False, self.finish(image, show))
        except Exception as error:
            hint = f"; or run fewer than {self.jobs} --jobs" if isinstance(error, MemoryError) and self.jobs > 1 else ""
            return failure(image, error, hint)

    def outcomes(self, images: Iterable[InputImage], show: ShowImage) -> Generator[Outcome, None, None]:
        """Does the work on each image, here or in processes that share the threads; outcomes come as they are ready.

        Leaving early, by an interrupt or by closing this generator, ends the processes, and what they were writing is
        removed.
        """
        if self.jobs == 1:
            return self.one_by_one(images, show)
        import torch

        return in_processes(images, self, threads=max(1, torch.get_num_threads() // self.jobs), show=show)

    def one_by_one(self, images: Iterable[InputImage], show: ShowImage) -> Generator[Outcome, None, None]:
        """Does the work on each image in this process."""
        for image in images:
            yield self.do(image, partial(show, image))

    def finish(self, image: InputImage, show: Show) -> str:
        """Works on the image and saves the result; returns one line that starts with the path."""
        raise NotImplementedError

    def steps(self) -> int | None:
        """How far ``show`` counts; None: nobody knows before."""
        raise NotImplementedError

    def settings(self, image: InputImage) -> Mapping[str, Any]:
        """What decides the result, as it stands in its JSON: with other settings, the image is not yet done."""
        raise NotImplementedError

    def is_saved(self, image: InputImage) -> bool:
        """Whether all files of the image are there."""
        return is_saved(self.output, image.stem, self.formats)


def failure(image: InputImage, error: Exception, hint: str = "") -> Outcome:
    """What became of an image that met ``error``."""
    text = in_one_line(error)
    if not isinstance(error, (ValueError, TypeError, OSError, MemoryError, ImportError)):
        text = f"{type(error).__name__}: {text}"
    named = text if text.startswith(str(image.path)) else f"{image.path}: {text}"
    return Outcome(image, True, named + hint)


def in_processes(
    images: Iterable[InputImage], work: Work, *, threads: int, show: ShowImage
) -> Generator[Outcome, None, None]:
    """Does the work on each image, ``work.jobs`` at a time, in processes with ``threads`` threads each."""
    workers: list[Worker[Outcome]] = []
    waiting = iter(images)
    with ended_with_the_block(workers):
        for image in itertools.islice(waiting, work.jobs):  # no more workers than images
            workers.append(Worker(threads))
            workers[-1].begin(image, work.do)
        while True:
            for worker in workers:
                if worker.image is None and (another := next(waiting, None)) is not None:
                    worker.begin(another, work.do)
            running = [worker for worker in workers if worker.future is not None]
            if not running:
                return
            wait([worker.future for worker in running if worker.future], POLL_SECONDS, FIRST_COMPLETED)
            for worker in running:
                worker.pass_on(show)
                outcome = worker.outcome()
                if outcome is not None:
                    yield outcome


@contextmanager
def ended_with_the_block(workers: Sequence[Worker[Any]]) -> Iterator[None]:
    """Workers that are begun in this block end with it: with their image, or at once where the block ends early."""
    others = multiprocessing.active_children()
    try:
        yield
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
        raise
    finally:
        for worker in workers:
            worker.close()


class Worker(Generic[T]):
    """A process, the image that it is at, and what it tells of it. Its task gives a ``T``, or how the image failed."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.image: InputImage | None = None
        self.future: Future[T | Outcome] | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy PyTorch's threads half
        self._reports, for_process = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(1, context, _begin_process, (self._threads, for_process))

    def begin(self, image: InputImage, task: Callable[..., T | Outcome], *arguments: object) -> None:
        """Has ``task(image, *arguments, show)`` run."""
        with _begun_without_interrupts():  # the process begins here
            try:
                future = self._executor.submit(_run, task, image, arguments)
            except BrokenProcessPool:  # killed while it had nothing to do: no image is to blame
                self._restart()
                future = self._executor.submit(_run, task, image, arguments)
        self.image, self.future = image, future

    def pass_on(self, show: ShowImage) -> None:
        """What the process has told since."""
        while self._reports.poll():
            step, state = self._reports.recv()
            if self.image is not None:
                show(self.image, step, state)

    def outcome(self) -> T | Outcome | None:
        """None as long as there is none; afterwards the worker is free for the next image."""
        if self.image is None or self.future is None or not self.future.done():
            return None
        image, error = self.image, self.future.exception()
        result: T | Outcome
        if isinstance(error, BrokenProcessPool):
            result = Outcome(image, True, f"{image.path}: {_KILLED}")
        elif isinstance(error, Exception):
            result = failure(image, error)
        else:
            result = self.future.result()
        self.pass_on(lambda *_: None)  # told since the last look, of this image and not of the next one
        if isinstance(error, BrokenProcessPool):
            self._restart()
        self.image, self.future = None, None
        return result

    def _restart(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        """Waits until the process has ended."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._reports.close()


_KILLED = (
    "the process that segmented it was killed, most likely because memory ran out: run it again with fewer --jobs, "
    "or with --max-side"
)


@contextmanager
def _begun_without_interrupts() -> Iterator[None]:
    """A process that begins meanwhile never sees Ctrl-C, which a terminal sends to all: this one ends the others.

    An interrupt or a termination that comes meanwhile has its effect at the end. In the middle, it would leave behind a
    process without the description that it reads first, which then dies with a traceback. The mask alone, which the new
    process inherits, does not hold it back: the system hands the signal to any other thread of this process, such as
    those of a numerical library, and Python runs the handler in the main thread all the same.
    """
    with interrupts_held_back():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- in the worker's process -----------------------------------------------------------------------------------------

_reports: Connection | None = None  # a task of an executor can be handed a pipe in no other way


def _begin_process(threads: int, reports: Connection) -> None:
    global _reports
    import torch

    _reports = reports
    torch.set_num_threads(threads)
    # As an interrupt in the main process does, so that no half-written file stays.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker would wait for ever for a main process that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    while True:  # once for the image at hand, once more for the waiting after it
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(POLL_SECONDS)


def _run(task: Callable[..., T], image: InputImage, arguments: Sequence[object]) -> T:
    reports = _reports
    assert reports is not None
    return task(image, *arguments, lambda step, state: reports.send((step, state)))
