"""``dynamicseg bench loss``: the fused loss against the published form in eager PyTorch and under ``torch.compile``.

What a report holds, all of it JSON-able:

- ``schema_version``, ``benchmark`` (``"loss"``), ``environment``, ``settings``;
- ``copy_bandwidth``: of a GPU, see ``cuda_timing.copy_bandwidths``; None on the CPU;
- ``maps``: one entry for each dtype and layout, with

  - ``map_bytes``, ``input_sets``: size of a response map, and how many of them the calls rotate over;
  - ``copy``: what ``Tensor.copy_`` took for one read and one write of a map, in the same rounds as all others: ``ms``
    and ``gb_per_s``;
  - ``agreement``: how far each competitor is from the published form in float32, see ``published.agreement``;
  - ``compiled``: ``ok``, ``reason`` (why there is no compiled competitor), ``seconds`` (its first calls, compilation
    included), ``graphs``, ``graph_breaks``;
  - ``results``: one entry for each pass and competitor: ``ms`` (``median``, ``q20``, ``q80``), ``gb_per_s`` of the
    bytes that must move (the map is read once; with backward, as much is written), ``times_limit`` (time over what
    these bytes take at the speed of the copy), ``speedup_over_eager``, ``speedup_over_compiled`` (ratios of medians),
    ``peak_memory_bytes`` beyond the input. None: not measured. On a GPU ``ms`` is the time there, between two events
    (see ``cuda_timing``), ``wall_ms`` that of the call, waiting for its end included, and ``times_large_limit`` the
    time over the same bytes at the speed of the largest copy;
  - ``options``: where asked for, see ``loss_options.option_results``, measured in rounds of their own; else None.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from dynamicseg import ops
from dynamicseg.bench.cuda_timing import EventClock, copy_bandwidths, gpu_peak_memory, warm_up
from dynamicseg.bench.environment import environment
from dynamicseg.bench.loss_options import option_cases, option_results
from dynamicseg.bench.published import (
    Compiled,
    Loss,
    LossAndGrad,
    PublishedLoss,
    agreement,
    agrees,
    compiled_loss,
    loss_and_grad,
    over_batch,
)
from dynamicseg.bench.timing import (
    Case,
    Timing,
    check_device,
    compare,
    copy_case,
    gigabytes_per_second,
    peak_memory,
    rotation,
    synchronizer,
    threads_set_to,
)
from dynamicseg.losses import DynamicLoss
from dynamicseg.ops._cuda import cooperative_launches
from dynamicseg.ops._runtime import backend_for, why

SCHEMA_VERSION = 3

Pass = Literal["forward", "forward+backward"]
Progress: TypeAlias = Callable[[str], None]
OneCall: TypeAlias = Callable[[Tensor], tuple[ops.DynamicLossOutput, Tensor]]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
PASSES: tuple[Pass, ...] = get_args(Pass)
ONE_CALL = "fused, one call"
COOPERATIVE = "fused, cooperative"
"""One call, as one kernel whose blocks wait for one another in place of several kernels; on GPUs alone."""

_COPY = ("copy", "copy")
_MAPS_MOVED: dict[Pass, int] = {"forward": 1, "forward+backward": 2}  # at least, whoever computes
_TIMED_REGION = (
    "one call on a leaf whose .grad is None before, and is set to None at the end of the timed region, so that taking "
    "and giving back memory counts for every competitor; forward alone is without autograd"
)


@dataclass(frozen=True)
class Settings:
    """What is measured; the arguments of ``run``, checked."""

    size: tuple[int, int]
    channels: int
    batch: int
    dtypes: tuple[str, ...]
    layouts: tuple[str, ...]
    repeats: int
    threads: int | None
    device: str
    compile: bool
    memory: bool
    options: bool = False
    weighting: str = "fsf"
    timed_region: str = _TIMED_REGION

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 2:
            raise ValueError(f"size is {'x'.join(map(str, self.size))}: pass height and width, both at least 2")
        for name in ("channels", "batch", "repeats", "threads"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name} is {count}: pass at least 1")
        for name, known in (("dtypes", DTYPES), ("layouts", LAYOUTS)):
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(known):
                raise ValueError(f"{name} is {', '.join(chosen) or 'empty'}: choose from {', '.join(known)}")
        check_device(self.device)
        if self.memory and (self.device != "cpu" or not os.path.exists("/proc/self/clear_refs")):
            raise ValueError("memory: wants the CPU, under Linux; leave it out (on a GPU it is measured anyway)")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``[B, C, H, W]`` of a response map."""
        return (self.batch, self.channels, *self.size)


def run(
    *,
    size: tuple[int, int] = (321, 481),
    channels: int = 100,
    batch: int = 1,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    layouts: Sequence[str] = ("channels_last", "contiguous"),
    repeats: int = 10,
    threads: int | None = None,
    device: str = "cpu",
    compile: bool = True,
    memory: bool = False,
    options: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures forward, and forward with backward, of all competitors on maps of independent normal numbers.

    Args:
        size: height and width of the image, in pixels, both >= 2.
        channels: C, number of candidate labels, >= 1.
        batch: images in a map, >= 1.
        dtypes: any of ``DTYPES``.
        layouts: any of ``LAYOUTS``: how the map lies in memory.
        repeats: measured rounds, >= 1.
        threads: for PyTorch and the kernels, >= 1; None leaves PyTorch's number. Put back afterwards.
        device: ``"cpu"`` or ``"cuda"``.
        compile: whether ``torch.compile`` takes part.
        memory: whether peak memory is measured as well, each in a process of its own; Linux, CPU.
        options: whether the fused loss is measured with its optional terms as well, each alone and all together.
        progress: told what is being done, in a few words.

    Returns:
        The report, as described at the top of this file.

    Raises:
        ValueError: an argument is out of its range.
        RuntimeError: the fused loss disagrees with the published form: its time would mean nothing.
    """
    chosen = (tuple(dtypes), tuple(layouts))
    settings = Settings(size, channels, batch, *chosen, repeats, threads, device, compile, memory, options)
    with threads_set_to(threads):
        tell = progress or (lambda _: None)
        gpu = None
        if device == "cuda":
            tell("speed of a copy")
            gpu = _Gpu()
        maps = [
            _measure(settings, dtype, layout, gpu, tell) for dtype in settings.dtypes for layout in settings.layouts
        ]
        return {
            "schema_version": SCHEMA_VERSION,
            "benchmark": "loss",
            "environment": environment() | {"backend": why(torch.device(device))},
            "copy_bandwidth": None if gpu is None else gpu.bandwidths,
            "settings": {
                name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()
            },
            "maps": maps,
        }


# ---- competitors -----------------------------------------------------------------------------------------------------


def response_maps(shape: Sequence[int], dtype: str, layout: str, count: int, device: str = "cpu") -> list[Tensor]:
    """``count`` leaves ``[B, C, H, W]`` of independent normal numbers, the scale on which batch norm leaves them."""
    generator = torch.Generator(device).manual_seed(0)
    maps = []
    for _ in range(count):
        x = torch.randn(*shape, generator=generator, device=device).to(DTYPES[dtype])
        maps.append(x.contiguous(memory_format=LAYOUTS[layout]).requires_grad_())
    return maps


def fused_loss() -> Loss:
    """Through the public module and autograd."""
    module = DynamicLoss()

    def loss(x: Tensor) -> Tensor:
        value: Tensor = module(x).loss
        return value

    return loss


def losses_of_all(compiled: Loss | None) -> dict[str, Loss]:
    """The competitors that autograd goes through, by name."""
    with_compiled = {} if compiled is None else {"compiled": compiled}
    return {"eager": over_batch(PublishedLoss()), **with_compiled, "fused": fused_loss()}


def cases(maps: Sequence[Tensor], compiled: Loss | None) -> dict[tuple[str, str], Case]:
    """What is timed on the leaves ``maps``, by pass and competitor."""
    losses = losses_of_all(compiled)

    def forward(loss: Loss) -> Case:
        @torch.no_grad()
        def case(index: int) -> None:
            loss(maps[index])

        return case

    def forward_and_backward(loss: Loss) -> Case:
        def case(index: int) -> None:
            loss(maps[index]).backward()
            maps[index].grad = None

        return case

    def in_one(call: OneCall) -> Case:
        return lambda index: call(maps[index])

    return {
        **{("forward", name): forward(loss) for name, loss in losses.items()},
        **{("forward+backward", name): forward_and_backward(loss) for name, loss in losses.items()},
        **{("forward+backward", name): in_one(call) for name, call in one_calls(maps).items()},
    }


def one_calls(maps: Sequence[Tensor]) -> dict[str, OneCall]:
    """Loss and gradient without autograd, by name; in both forms where ``maps`` are on a GPU that runs our kernels."""
    if not maps or backend_for(maps[0].device) != "cuda":
        return {ONE_CALL: ops.dynamic_loss_and_grad}

    def form(cooperative: bool) -> OneCall:
        def call(x: Tensor) -> tuple[ops.DynamicLossOutput, Tensor]:
            with cooperative_launches(cooperative):
                return ops.dynamic_loss_and_grad(x)

        return call

    return {ONE_CALL: form(False), COOPERATIVE: form(True)}


def fused_in_one_call(call: OneCall, x: Tensor) -> LossAndGrad:
    """Mean loss and gradient of ``call``."""
    output, grad_x = call(x)
    return float(output.loss.mean()), grad_x


def checked_agreement(x: Tensor, compiled: Loss | None, where: str) -> dict[str, dict[str, float]]:
    """The agreement of all competitors on the leaf ``x``; RuntimeError if a fused one disagrees.

    Only those are held to the tolerances: in bfloat16 the published form rounds its loss to three digits.
    """
    competitors = {name: partial(loss_and_grad, loss) for name, loss in losses_of_all(compiled).items()}
    calls = {name: partial(fused_in_one_call, call) for name, call in one_calls([x]).items()}
    found = agreement(x, {**competitors, **calls})
    for name in ("fused", *calls):
        if not agrees(found[name]):
            numbers = ", ".join(f"{key} {value:.3g}" for key, value in found[name].items())
            raise RuntimeError(f"{name} disagrees with the published form, {where}: {numbers}")
    return found


# ---- measurement -----------------------------------------------------------------------------------------------------


class _Gpu:
    """A clock on the GPU, awake, and what it says of copies."""

    def __init__(self) -> None:
        warm_up()
        self.clock = EventClock()
        self.bandwidths = copy_bandwidths(self.clock)


def _measure(settings: Settings, dtype: str, layout: str, gpu: _Gpu | None, tell: Progress) -> dict[str, Any]:
    """The entry of one dtype and layout."""
    where = f"{dtype} {layout}"
    tell(f"{where}: inputs")
    one_map = math.prod(settings.shape) * DTYPES[dtype].itemsize
    input_sets = rotation(one_map)
    maps = response_maps(settings.shape, dtype, layout, input_sets, settings.device)

    compiled = Compiled(None, "not asked for")
    if settings.compile:
        tell(f"{where}: torch.compile")
        compiled = compiled_loss(maps)
    tell(f"{where}: agreement")
    agreed = checked_agreement(maps[0], compiled.loss, where)

    all_cases = {
        **cases(maps, compiled.loss),
        _COPY: copy_case(one_map, input_sets=input_sets, device=settings.device),
    }
    timed = partial(
        compare,
        repeats=settings.repeats,
        input_sets=input_sets,
        synchronize=synchronizer(settings.device),
        progress=lambda done, of: tell(f"{where}: round {done} of {of}"),
    )
    clocked = timed if gpu is None else partial(timed, warmup=3, clock=gpu.clock)
    timings = clocked(all_cases)
    walls = None if gpu is None else timed(all_cases)
    options = option_results(clocked(option_cases(maps))) if settings.options else None
    peaks: dict[tuple[str, str], int] = {}
    if gpu is not None:
        peaks = {name: gpu_peak_memory(partial(case, 0)) for name, case in all_cases.items()}
    elif settings.memory:
        tell(f"{where}: peak memory")
        peaks = _peaks(settings, dtype, layout)
    return {
        "dtype": dtype,
        "layout": layout,
        "map_bytes": one_map,
        "input_sets": input_sets,
        "copy": {
            "ms": timings[_COPY].as_dict(),
            "gb_per_s": gigabytes_per_second(2 * one_map, timings[_COPY].median),
        },
        "agreement": agreed,
        "compiled": compiled.as_dict(),
        "results": [result | _on_gpu(result, walls, gpu) for result in _results(timings, one_map, peaks)],
        "options": options,
    }


def _results(
    timings: dict[tuple[str, str], Timing], one_map: int, peaks: dict[tuple[str, str], int]
) -> list[dict[str, Any]]:
    """One entry for each pass and competitor, from all times on maps of ``one_map`` bytes."""
    results: list[dict[str, Any]] = []
    for which in PASSES:
        moved = _MAPS_MOVED[which] * one_map
        limit = timings[_COPY].median * _MAPS_MOVED[which] / 2
        compiled = timings.get((which, "compiled"))
        results += [
            {
                "pass": which,
                "competitor": name,
                "ms": timing.as_dict(),
                "gb_per_s": gigabytes_per_second(moved, timing.median),
                "times_limit": timing.median / limit,
                "speedup_over_eager": timings[which, "eager"].median / timing.median,
                "speedup_over_compiled": compiled.median / timing.median if compiled else None,
                "peak_memory_bytes": peaks.get((which, name)),
            }
            for (pass_of, name), timing in timings.items()
            if pass_of == which
        ]
    return results


def _on_gpu(result: dict[str, Any], walls: dict[tuple[str, str], Timing] | None, gpu: _Gpu | None) -> dict[str, Any]:
    """What a result has besides on a GPU."""
    if walls is None or gpu is None:
        return {"wall_ms": None, "times_large_limit": None}
    return {
        "wall_ms": walls[result["pass"], result["competitor"]].as_dict(),
        "times_large_limit": gpu.bandwidths["large"]["gb_per_s"] / result["gb_per_s"],
    }


def _peaks(settings: Settings, dtype: str, layout: str) -> dict[tuple[str, str], int]:
    """Peak memory in bytes beyond the input; not of the compiled form, whose process holds its compiler as well."""
    map_arguments = {"shape": settings.shape, "dtype": dtype, "layout": layout, "threads": torch.get_num_threads()}
    return {
        (which, name): peak_memory("dynamicseg.bench.loss:prepare", {**map_arguments, "which": which, "name": name})
        for which, name in cases([], None)
    }


def prepare(shape: Sequence[int], dtype: str, layout: str, threads: int, which: str, name: str) -> Callable[[], object]:
    """A call whose peak memory ``peak_memory`` can measure, after one on a tiny map that loads what is loaded once."""
    torch.set_num_threads(threads)
    maps = response_maps(shape, dtype, layout, 1)
    tiny = response_maps((1, shape[1], 2, 2), dtype, layout, 1)
    cases(tiny, None)[which, name](0)
    call = cases(maps, None)[which, name]
    return lambda: call(0)
