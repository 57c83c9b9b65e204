"""Measuring competitors side by side: time on one noisy machine, the speed of its memory, peak memory.

Nothing here knows what is measured.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

Case: TypeAlias = Callable[[int], object]
"""One call of a competitor on input set ``index``. All input sets exist before the first call; what the call returns is
dropped inside the timed region, so that giving memory back counts for every competitor."""

Clock: TypeAlias = Callable[[Case, int], float]
"""Runs a case once on an input set, and returns how many seconds it took."""

Name = TypeVar("Name", bound=Hashable)

MILLISECONDS = 1e3  # in a second
GB = 1e9  # bytes


@dataclass(frozen=True)
class Timing:
    """Times of one competitor, in milliseconds, one a round."""

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the calls were as fast."""
        return float(np.median(self.milliseconds))

    @property
    def q20(self) -> float:
        """The 20 % quantile: one call in five was as fast."""
        return self.quantile(0.2)

    @property
    def q80(self) -> float:
        """The 80 % quantile: four calls in five were as fast."""
        return self.quantile(0.8)

    def quantile(self, share: float) -> float:
        """Such a share of the calls, 0 to 1, was as fast."""
        return float(np.quantile(self.milliseconds, share))

    def as_dict(self) -> dict[str, float]:
        """For a report: ``median``, ``q20``, ``q80``, in milliseconds."""
        return {"median": self.median, "q20": self.q20, "q80": self.q80}


def compare(
    cases: Mapping[Name, Case],
    *,
    repeats: int,
    warmup: int = 1,
    input_sets: int = 1,
    synchronize: Callable[[], None] | None = None,
    clock: Clock | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Name, Timing]:
    """Times of all ``cases``, each called once in every round, so that noise of the machine meets all of them alike.

    Each round begins with another case, because a case also feels what the one before it left in caches. The number
    of the input set grows with every call and starts again after ``input_sets``: two calls in a row never share their
    input where there are at least two sets, and caches are cold where the sets together are larger than them.

    Args:
        cases: competitors by name; each is called with the number of an input set, 0 to ``input_sets - 1``.
        repeats: measured rounds, >= 1.
        warmup: rounds before them that are not measured, >= 0.
        input_sets: how many input sets the cases have prepared, >= 1.
        synchronize: waits for the device; called before and after each call. None where calls are synchronous.
        clock: measures a call in place of this process's own clock, and waits for the device if it must.
        progress: told how many rounds are done, and of how many; outside the timed region.

    Raises:
        ValueError: a count is too small.
    """
    for argument, count, least in (("repeats", repeats, 1), ("warmup", warmup, 0), ("input_sets", input_sets, 1)):
        if count < least:
            raise ValueError(f"{argument} is {count}: pass at least {least}")
    measure = clock or partial(_seconds, synchronize)
    names = list(cases)
    milliseconds: dict[Name, list[float]] = {name: [] for name in names}
    call = 0
    with _no_garbage_collection():
        for number in range(warmup + repeats):
            first = number % max(len(names), 1)
            for name in names[first:] + names[:first]:
                seconds = measure(cases[name], call % input_sets)
                call += 1
                if number >= warmup:
                    milliseconds[name].append(seconds * MILLISECONDS)
            if progress is not None:
                progress(number + 1, warmup + repeats)
    return {name: Timing(tuple(times)) for name, times in milliseconds.items()}


class Stopwatch:
    """Times of the parts of a piece of work."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Around a part; parts of the same name are added up."""
        begin = self._mark()
        yield
        self._marks.append((name, begin, self._mark()))

    def milliseconds(self, work: Callable[[], object]) -> dict[str, float]:
        """Of each part of ``work``, by name."""
        self._marks.clear()
        self._begin()
        work()
        found: dict[str, float] = {}
        for name, begin, end in self._marks:
            found[name] = found.get(name, 0.0) + self._between(begin, end)
        return found

    def _begin(self) -> None:
        pass

    def _mark(self) -> Any:
        return time.perf_counter()

    def _between(self, begin: Any, end: Any) -> float:
        return float((end - begin) * MILLISECONDS)


def _seconds(synchronize: Callable[[], None] | None, case: Case, index: int) -> float:
    if synchronize is None:
        start = time.perf_counter()
        case(index)
        return time.perf_counter() - start
    synchronize()
    start = time.perf_counter()
    case(index)
    synchronize()
    return time.perf_counter() - start


@contextmanager
def threads_set_to(threads: int | None) -> Iterator[None]:
    """PyTorch, and the kernels with it, on so many threads inside the block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if threads is None else threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a call would be charged to whoever is being timed."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


# ---- memory bandwidth ------------------------------------------------------------------------------------------------


def copy_case(nbytes: int, *, input_sets: int, device: str = "cpu") -> Case:
    """One read and one write of ``nbytes`` bytes with ``Tensor.copy_``: put it among the cases whose limit it is.

    The buffers are as many as the input sets of the other cases (two at least), filled here: no page is touched for the
    first time in the timed region.
    """
    buffers = [torch.ones(nbytes, dtype=torch.uint8, device=device) for _ in range(max(input_sets, 2))]

    def copy(index: int) -> None:
        buffers[(index + 1) % len(buffers)].copy_(buffers[index])

    return copy


def gigabytes_per_second(nbytes: float, milliseconds: float) -> float:
    """``nbytes`` bytes in ``milliseconds``, as GB/s (10^9 bytes)."""
    return nbytes / GB / (milliseconds / MILLISECONDS)


def copy_bandwidth(nbytes: int, *, repeats: int = 10, device: str = "cpu") -> float:
    """GB/s, reads and writes added, at which ``Tensor.copy_`` copies ``nbytes`` bytes; median of ``repeats`` copies."""
    input_sets = rotation(nbytes)
    timing = compare(
        {"copy": copy_case(nbytes, input_sets=input_sets, device=device)},
        repeats=repeats,
        input_sets=input_sets,
        synchronize=synchronizer(device),
    )["copy"]
    return gigabytes_per_second(2 * nbytes, timing.median)


def rotation(nbytes: int, *, total: int = 192 << 20, most: int = 16) -> int:
    """How many input sets of ``nbytes`` bytes to rotate over, so that ``total`` bytes pass before one returns.

    It is at least 2 and at most ``most``. The default total is beyond the last cache of most processors and GPUs.
    """
    return min(max(-(-total // max(nbytes, 1)), 2), most)


def check_device(device: str) -> None:
    """ValueError, one line, unless ``device`` is ``"cpu"``, or ``"cuda"`` where there is one."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r}: choose cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda': PyTorch sees no CUDA device here; choose cpu")


def synchronizer(device: str) -> Callable[[], None] | None:
    """What waits for ``device``; None for the CPU."""
    return None if torch.device(device).type == "cpu" else lambda: torch.cuda.synchronize(device)


# ---- peak memory -----------------------------------------------------------------------------------------------------

_CHILD = "from dynamicseg.bench.timing import _print_peak; _print_peak()"


def peak_memory(function: str, arguments: Mapping[str, Any]) -> int:
    """Bytes of resident memory that a call needed beyond what was there before it, at its peak. Linux only.

    A fresh process is measured, so that no allocator has memory in hand from earlier calls.

    Args:
        function: ``"module:name"`` of a function that prepares everything and returns the call, with no arguments.
        arguments: of that function; JSON-able.

    Raises:
        RuntimeError: the process failed, or the system does not tell; one line.
    """
    # PYTHONSAFEPATH: the source folder in the working directory has no compiled module.
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, function, json.dumps(arguments)],
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise RuntimeError(f"peak memory of {function} cannot be measured: {last}")
    return int(done.stdout.split()[-1])


def _print_peak(argv: Sequence[str] | None = None) -> None:
    """The other side of ``peak_memory``."""
    function, arguments = (sys.argv[1:] if argv is None else argv)[:2]
    module, name = function.split(":")
    call = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from what is resident now
    before = _status_bytes("VmRSS")
    call()
    print(max(_status_bytes("VmHWM") - before, 0))


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
