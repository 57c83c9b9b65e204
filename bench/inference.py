"""``dynamicseg bench inference``: a trained model in every form that runs on this machine, speed beside agreement.

All forms take turns in one process, on the same images: each round calls every form once, and begins with another one.
Labels are compared with those of the first form, on all images.

What a report holds, all of it JSON-able:

- ``schema_version``, ``benchmark`` (``"inference"``), ``environment``, ``settings``;
- ``results``: one entry for each form: ``form``, ``runtime``, ``bytes`` (of the file), ``ms`` of a call (``p50``,
  ``p95``), ``images_per_second`` (from p50), ``speedup`` over the first form, ``agreement`` (share of pixels with its
  label), ``peak_bytes`` (of memory beyond the loaded model; None: not measured), ``times_limit`` (None: no limit is
  known for its arithmetic);
- ``skipped``: ``form`` and ``reason`` of those that do not run here;
- ``limit``: ``ms``, the multiplications of the network at the rate of a large float32 matrix product on as many
  threads, the fastest of all rounds; ``gflop`` of a call, ``gflop_per_s`` of the matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dynamicseg._words import counted
from dynamicseg.bench.environment import environment
from dynamicseg.bench.inference_forms import Form, forms, photos
from dynamicseg.bench.published import in_one_line
from dynamicseg.bench.timing import Case, Timing, compare, peak_memory, threads_set_to

SCHEMA_VERSION = 1

Progress: TypeAlias = Callable[[str], None]

_PHOTOS = 8
_PRODUCT = "matrix product"
_PRODUCT_SIZE = 1024


@dataclass(frozen=True)
class Settings:
    """What is measured; the arguments of ``run``, checked."""

    size: tuple[int, int]
    batch: int
    repeats: int
    threads: int

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size is {'x'.join(map(str, self.size))}: pass height and width, both at least 1")
        for name in ("batch", "repeats", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: pass at least 1")


def run(
    models: Sequence[Path],
    *,
    size: tuple[int, int] = (321, 481),
    images: Path | None = None,
    batch: int = 1,
    repeats: int = 20,
    threads: int | None = None,
    compile: bool = True,
    memory: bool = True,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures all forms of a model.

    Args:
        models: its files, at least one; the first form of the first is what the others are compared with.
        size: height and width of the images, in pixels.
        images: a folder; None: the photos of scikit-image.
        batch: images in a call, >= 1.
        repeats: timed rounds, >= 1.
        threads: on the CPU, for every runtime, >= 1; None: as many as PyTorch uses.
        compile: whether ``torch.compile`` takes part.
        memory: whether the peak of memory is measured, each form in a process of its own.
        progress: told what is being done, in a few words.

    Returns:
        The report, as described at the top of this file.

    Raises:
        ValueError: an argument is out of its range, a file is no model, or they are not of the same model.
        OSError: a file cannot be read.
        RuntimeError: no form runs here.
    """
    settings = Settings(size, batch, repeats, torch.get_num_threads() if threads is None else threads)
    tell = progress or (lambda _: None)
    with threads_set_to(settings.threads):
        ready: list[Form] = []
        skipped: list[tuple[str, str]] = []
        for path in models:
            tell(f"loading {path.name}")
            for one in forms(path, threads=settings.threads, compile=compile):
                ready.append(one) if isinstance(one, Form) else skipped.append(one)
        if not ready:
            raise RuntimeError("; ".join(f"{name} does not run here: {reason}" for name, reason in skipped))
        check_same_model(ready)
        pictures = photos(images, size, ready[0].contract.bands, count=_PHOTOS)
        stacks = [np.repeat(picture[None], batch, axis=0) for picture in pictures]
        tell("comparing labels")
        agreement, ready, failed = _agreement(ready, pictures, batch)
        timings = _timings(ready, stacks, settings, tell)
        peaks = _peaks(ready, settings, images, tell) if memory else {}
        return {
            "schema_version": SCHEMA_VERSION,
            "benchmark": "inference",
            "environment": environment(),
            "settings": asdict(settings) | {"size": list(size), "images": None if images is None else str(images)},
            "results": _results(ready, timings, agreement, peaks, settings),
            "skipped": [{"form": name, "reason": reason} for name, reason in skipped + failed],
            "limit": _limit(ready[0], timings[_PRODUCT], settings),
        }


def check_same_model(ready: Sequence[Form]) -> None:
    """ValueError unless all forms take the same images and know the same labels."""
    first = ready[0]
    for one in ready[1:]:
        for name in ("bands", "label_count"):
            theirs, ours = getattr(one.contract, name), getattr(first.contract, name)
            if theirs != ours:
                raise ValueError(
                    f"{one.path.name} has {name} {theirs}, {first.path.name} {ours}: pass files of the same model"
                )


# ---- measurement -----------------------------------------------------------------------------------------------------


def _agreement(
    ready: Sequence[Form], pictures: Sequence[NDArray[np.uint8]], batch: int
) -> tuple[dict[str, float], list[Form], list[tuple[str, str]]]:
    """The share of pixels with the first form's label, by form; the forms that ran, and why others did not."""
    expected: list[NDArray[np.int32]] = []
    shares: dict[str, float] = {}
    ran: list[Form] = []
    failed: list[tuple[str, str]] = []
    for one in ready:
        try:
            labels = [one.labels(np.repeat(picture[None], batch, axis=0))[0] for picture in pictures]
        except Exception as error:  # compilers and runtimes fail with every type; a comparison goes on without one
            failed.append((one.name, in_one_line(error)))
            continue
        expected = expected or labels
        shares[one.name] = float(np.mean([found == want for found, want in zip(labels, expected, strict=True)]))
        ran.append(one)
    if not ran:
        raise RuntimeError("; ".join(f"{name} does not run here: {reason}" for name, reason in failed))
    return shares, ran, failed


def _timings(
    ready: Sequence[Form], stacks: Sequence[NDArray[np.uint8]], settings: Settings, tell: Progress
) -> dict[str, Timing]:
    def case(one: Form) -> Case:
        return lambda index: one.labels(stacks[index])

    square = torch.ones(_PRODUCT_SIZE, _PRODUCT_SIZE)
    cases: dict[str, Case] = {one.name: case(one) for one in ready}
    cases[_PRODUCT] = lambda _: square @ square
    return compare(
        cases,
        repeats=settings.repeats,
        input_sets=len(stacks),
        progress=lambda done, total: tell(f"round {done} of {total}"),
    )


def _peaks(ready: Sequence[Form], settings: Settings, images: Path | None, tell: Progress) -> dict[str, int]:
    peaks = {}
    for one in ready:
        tell(f"memory of {one.name}")
        peaks[one.name] = peak_memory(
            "dynamicseg.bench.inference_forms:prepared",
            {
                "path": str(one.path),
                "mode": one.mode,
                "threads": settings.threads,
                "images": "" if images is None else str(images),
                "size": list(settings.size),
                "batch": settings.batch,
            },
        )
    return peaks


def _results(
    ready: Sequence[Form],
    timings: Mapping[str, Timing],
    agreement: Mapping[str, float],
    peaks: Mapping[str, int],
    settings: Settings,
) -> list[dict[str, Any]]:
    first = timings[ready[0].name].median
    limit = _limit(ready[0], timings[_PRODUCT], settings)["ms"]
    return [
        {
            "form": one.name,
            "runtime": dict(one.runtime),
            "bytes": one.path.stat().st_size,
            "ms": {"p50": timings[one.name].median, "p95": timings[one.name].quantile(0.95)},
            "images_per_second": 1e3 * settings.batch / timings[one.name].median,
            "speedup": first / timings[one.name].median,
            "agreement": agreement[one.name],
            "peak_bytes": peaks.get(one.name),
            "times_limit": timings[one.name].median / limit if one.float32 else None,
        }
        for one in ready
    ]


def _limit(one: Form, product: Timing, settings: Settings) -> dict[str, float]:
    gflop = 2e-9 * multiplications(one.contract.description, settings.size) * settings.batch
    # At its best, for it stands for what the processor can do.
    rate = 2e-9 * _PRODUCT_SIZE**3 / (product.quantile(0) * 1e-3)
    return {"ms": 1e3 * gflop / rate, "gflop": gflop, "gflop_per_s": rate}


# For each 16 x 16 pixels, where maps of stride 16 have one.
_OF_BACKBONE = {"efficientnet-lite0": 1_242_256}


def multiplications(description: Mapping[str, Any], size: tuple[int, int]) -> int:
    """Of the convolutions of the network, and of the one that its features come from, for one image of ``size``."""
    network = description["network"]
    stride, width = network["stride"], network["width"]
    rows, columns = (-(-side // stride) for side in size)
    bands = description["bands"] + network.get("feature_planes", 0) + (2 if network["coordinates"] else 0)
    backbone = description.get("backbone")
    before = 0.0
    if backbone:
        onnx = backbone.get("onnx")
        before = size[0] * size[1] * (onnx["multiplications"] if onnx else _OF_BACKBONE[backbone["source"]] / 256)
    first = bands * width * (9 if stride == 1 else (2 * stride) ** 2)
    others = (network["depth"] - 1) * 9 * width * width
    return int(before + rows * columns * (first + others + width * description["label_count"]))


# ---- what the user sees ----------------------------------------------------------------------------------------------


_COLUMNS = (
    "p50 ms, p95 ms: time of a call, median and 95th percentile",
    "times faster: than the first form",
    "agreement: share of pixels with the label that the first form gives",
    "MB: peak memory of a call beyond the loaded model",
)


def table(report: dict[str, Any]) -> Group:
    """The report for a terminal of 80 columns or more."""
    settings, machine, limit = report["settings"], report["environment"], report["limit"]
    height, width = settings["size"]
    head = (
        f"Inference, {height} x {width} pixels, batch {settings['batch']}; {machine['cpu']}, "
        f"{counted(settings['threads'], 'thread')}; PyTorch {machine['torch']}"
    )
    found = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    found.add_column("form")
    found.add_column("runs on", no_wrap=True)
    for column in ("p50 ms", "p95 ms", "images/s", "times\nfaster", "agreement", "MB", "times\nlimit"):
        found.add_column(column, justify="right", no_wrap=True)
    for number, result in enumerate(report["results"], start=1):
        found.add_row(
            str(number),
            result["runtime"]["provider"],
            f"{result['ms']['p50']:.1f}",
            f"{result['ms']['p95']:.1f}",
            f"{result['images_per_second']:.1f}",
            f"{result['speedup']:.2f}",
            f"{result['agreement']:.3%}",
            "-" if result["peak_bytes"] is None else f"{result['peak_bytes'] / 1e6:.0f}",
            "-" if result["times_limit"] is None else f"{result['times_limit']:.2f}",
        )
    # Below the table, where a name may be as long as it is.
    forms = [f"{number}: {result['form']}" for number, result in enumerate(report["results"], start=1)]
    of_limit = (
        f"times limit: p50 over {limit['ms']:.3g} ms, which the {limit['gflop']:.3g} GFLOP of a call would take at "
        f"{limit['gflop_per_s']:.0f} GFLOP/s, the measured rate of a float32 matrix product; -: the form does not "
        "compute in float32"
    )
    skipped = [f"{one['form']} does not run here: {one['reason']}" for one in report["skipped"]]
    below = (*forms, "", *_COLUMNS, of_limit, *skipped)
    return Group(Text(head), found, *map(Text, below))
