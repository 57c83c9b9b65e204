"""Measuring on a GPU: the time between two events there, memory in use, how fast memory and cache copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from dynamicseg.bench.timing import MILLISECONDS, Case, Stopwatch, Timing, compare, gigabytes_per_second

_HEAD_START = 2e-3  # seconds; longer than it takes to ask for what one call of an op has the GPU do
_HEAD_START_OF_STEP = 20e-3
_LARGE_COPY = 1 << 30  # bytes
_COPIES_IN_A_CALL = 10  # the events themselves take as long as copying a megabyte


class EventClock:
    """Seconds that a case keeps the GPU at work, see ``timing.Clock``.

    The GPU sleeps before the first event, so that what the case asks for is there when it wakes: what Python needs to
    launch a kernel is no part of the time. A case that itself waits for the GPU has what it waits counted.
    """

    def __init__(self) -> None:
        self._begin, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._cycles_per_second = 1e9
        for _ in range(2):  # the first call also loads what it runs
            slept = self(lambda _: self.hold(1e-3), 0)
        self._cycles_per_second *= 1e-3 / slept

    def __call__(self, case: Case, index: int) -> float:
        """Runs ``case`` once on input set ``index``."""
        torch.cuda.synchronize()
        self.hold(_HEAD_START)
        self._begin.record()
        case(index)
        self._end.record()
        self._end.synchronize()
        return float(self._begin.elapsed_time(self._end)) / MILLISECONDS

    def hold(self, seconds: float) -> None:
        """Has the GPU sleep before it does what comes next; returns at once."""
        torch.cuda._sleep(int(seconds * self._cycles_per_second))


class EventStopwatch(Stopwatch):
    """Times of parts on the GPU, between events; it sleeps first, until the whole piece of work has been asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._clock = EventClock()

    def _begin(self) -> None:
        torch.cuda.synchronize()
        self._clock.hold(_HEAD_START_OF_STEP)

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return float(begin.elapsed_time(end))


def warm_up(seconds: float = 0.5) -> None:
    """Keeps the GPU at work for so long: an idle one runs at a fraction of its clock."""
    buffers = [torch.ones(1 << 26, dtype=torch.uint8, device="cuda") for _ in range(2)]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        buffers[0].copy_(buffers[1])
        torch.cuda.synchronize()


def gpu_peak_memory(call: Callable[[], object]) -> int:
    """Bytes of GPU memory that a call had in use at its peak, beyond what was in use before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def copy_bandwidths(clock: EventClock) -> dict[str, dict[str, Any]]:
    """How fast the GPU copies: ``large``, far beyond its cache, and ``l2``, back and forth within half of it.

    Each with ``bytes`` of one copy and ``gb_per_s``, reads and writes added.
    """
    l2_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return {name: _copy_bandwidth(nbytes, clock) for name, nbytes in (("large", _LARGE_COPY), ("l2", l2_bytes // 4))}


def _copy_bandwidth(nbytes: int, clock: EventClock) -> dict[str, Any]:
    buffers = [torch.ones(nbytes, dtype=torch.uint8, device="cuda") for _ in range(2)]

    def copies(_: int) -> None:
        for number in range(_COPIES_IN_A_CALL):
            buffers[number % 2].copy_(buffers[1 - number % 2])

    timing: Timing = compare({"copy": copies}, repeats=10, warmup=2, clock=clock)["copy"]
    return {"bytes": nbytes, "gb_per_s": gigabytes_per_second(2 * nbytes * _COPIES_IN_A_CALL, timing.median)}
