"""The parts of `make gpu-check`: what each runs, and what it makes of the outcome."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

Found = dict[str, Any]
"""``passed``, ``what`` (a few words for the table), and whatever belongs into the JSON."""


@dataclass
class Check:
    """One run."""

    root: Path
    work: Path
    python: Path
    device: str
    capability: str | None
    quick: bool
    dry_run: bool
    data: Path | None
    pytest_plugins: set[str] = field(default_factory=set)

    def environment(self) -> dict[str, str]:
        """Of all processes: the environment's own tools first, the source folder never on the path."""
        changed = {"PYTHONSAFEPATH": "1", "PATH": os.pathsep.join([*self._tools(), os.environ["PATH"]])}
        if self.data is not None:
            changed["DYNAMICSEG_DATA"] = str(self.data)
        return {**os.environ, **changed}

    def _tools(self) -> list[str]:
        return [str(self.python.parent), str(Path(sys.executable).parent)]

    def dynamicseg(self, *arguments: str) -> list[str]:
        """A command of the command line."""
        return [str(self.python), "-m", "dynamicseg.cli", *arguments]

    def output(self, part: str, suffix: str = "json") -> Path:
        """The file that a part writes."""
        return self.work / f"{part}.{suffix}"


@dataclass(frozen=True)
class Part:
    """``commands`` run one after the other until one fails; ``read`` gets the log and the last exit status.

    ``needs`` are modules, ``tool`` a program; limits are seconds.
    """

    name: str
    needs: tuple[str, ...]
    commands: Callable[[Check], list[list[str]]]
    read: Callable[[Check, Path, int | None], Found]
    limit: float
    quick_limit: float
    tool: str | None = None


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _last_json(log: Path) -> Found:
    """The last line of a log that is a JSON object."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("{")]
    found: Found = json.loads(lines[-1])
    return found


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:120] if lines else "nothing was said"


# ---- build -----------------------------------------------------------------------------------------------------------


def _build(check: Check) -> list[list[str]]:
    defines = {"DYNAMICSEG_CUDA": "AUTO" if check.dry_run else "ON"}
    if check.capability is not None:
        defines["DYNAMICSEG_CUDA_ARCHITECTURES"] = f"{check.capability}-real"
    settings = [f"--config-settings=cmake.define.{name}={value}" for name, value in defines.items()]
    settings.append(f"--config-settings=build-dir={check.work / 'build'}")
    pip = [
        str(check.python),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--no-build-isolation",
        "--no-deps",
    ]
    # A dry run leaves the Python that runs it as it is.
    into = [f"--target={check.work / 'target'}", "--upgrade"] if check.dry_run else []
    install = [*pip, *into, "--force-reinstall", "--verbose", *settings, str(check.root)]
    return [install, [str(check.python), "-c", _WHAT_WAS_BUILT]]


_WHAT_WAS_BUILT = (
    "import json, torch; from dynamicseg import _native; from dynamicseg.ops import _runtime; "
    "print(json.dumps({'build': _native.build_info(), 'module': _native.__file__, "
    "'cuda_backend': _runtime.why(torch.device('cuda'))}))"
)


def _read_build(check: Check, log: Path, status: int | None) -> Found:
    if status != 0:
        return {"passed": False, "what": _last_words(log)}
    found = _last_json(log)
    where = Path(found.pop("module")).is_relative_to(check.work)
    usable = found["cuda_backend"].startswith("native kernels") and where
    return {"passed": usable or check.dry_run, "what": found["cuda_backend"], **found}


def _resources(check: Check) -> list[list[str]]:
    return [[str(check.python), str(check.root / "tests" / "cuda_resources.py"), str(check.output("resources"))]]


def _read_resources(check: Check, log: Path, status: int | None) -> Found:
    if status != 0:
        return {"passed": False, "what": _last_words(log)}
    report = _json(check.output("resources"))
    spilling = [kernel["name"] for kernel in report["kernels"] if kernel["spill_stores"] + kernel["spill_loads"] > 0]
    most = max(kernel["registers"] for kernel in report["kernels"])
    what = f"{len(report['kernels'])} kernels, at most {most} registers, {len(spilling)} with spills"
    return {"passed": True, "what": what, "spilling": spilling, **report}


# ---- correctness -----------------------------------------------------------------------------------------------------


def _tests(check: Check) -> list[list[str]]:
    # Warnings of versions that the project's own CI does not have are no failures, and a plugin may be missing.
    options = [
        "-o",
        "addopts=",
        "-o",
        "filterwarnings=default",
        "--import-mode=importlib",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    options += ["--continue-on-collection-errors", f"--junitxml={check.output('tests', 'xml')}"]
    options += ["--timeout=120"] if "timeout" in check.pytest_plugins else []
    chosen = [str(check.root / "tests")]
    if check.dry_run:
        chosen = [str(check.root / "tests" / "test_losses.py")]
    return [[str(check.python), "-m", "pytest", *options, "-m", "cuda", *chosen]]


def _read_tests(check: Check, log: Path, status: int | None) -> Found:
    counts: Counter[str] = Counter()
    failures, left_out = [], set()
    for case in ElementTree.parse(check.output("tests", "xml")).iter("testcase"):
        child = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        name, text = f"{case.get('classname')}::{case.get('name')}", "" if child is None else child.text or ""
        missing = re.search(r"No module named '(\w+)", text)
        if child is not None and child.tag == "error" and missing:
            left_out.add(f"{case.get('name')}: {missing[1]} is missing")
            continue
        counts[{None: "passed", "skipped": "skipped"}.get(None if child is None else child.tag, "failed")] += 1
        if child is not None and child.tag != "skipped":
            failures.append({"test": name, "message": " ".join((child.get("message") or "").split())[:300]})
    what = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no test ran"
    what += f", {len(left_out)} files left out" if left_out else ""
    good = not failures and not left_out and (counts["passed"] > 0 or check.dry_run)
    return {
        "passed": good,
        "what": what,
        "counts": dict(counts),
        "failures": failures[:50],
        "left_out": sorted(left_out),
    }


def _ops(check: Check, *options: str) -> list[str]:
    return [str(check.python), str(check.root / "tests" / "gpu_ops.py"), f"--device={check.device}", *options]


def _repeatable(check: Check) -> list[list[str]]:
    size = ["--shapes=1"] if check.dry_run else ["--large"]
    return [_ops(check, *size, "--times=2")] * 2


def _read_repeatable(check: Check, log: Path, status: int | None) -> Found:
    if status != 0:
        return {"passed": False, "what": _last_words(log)}
    runs = [json.loads(line) for line in log.read_text().splitlines() if line.startswith('{"backend"')]
    same = len(runs) == 2 and runs[0]["digest"] == runs[1]["digest"]
    unequal = sorted({name for one in runs for name in one["unequal"]})
    what = f"{runs[0]['cases']} cases; two runs {'bit-identical' if same else 'DIFFER'}"
    return {"passed": same and not unequal, "what": what, "bit_identical": same, "unequal": unequal, "runs": runs}


def _sanitized(tool: str) -> Callable[[Check], list[list[str]]]:
    def commands(check: Check) -> list[list[str]]:
        # Without PyTorch's cache each tensor is an allocation of its own, whose end is known.
        sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "99", "--print-limit", "20"]
        ops = _ops(check, *(["--shapes=2"] if check.quick else []))
        return [["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1", *sanitizer, *ops]]

    return commands


def _read_sanitized(check: Check, log: Path, status: int | None) -> Found:
    text = log.read_text(errors="replace")
    summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", text)
    ran = '{"backend"' in text
    clean = bool(summary) and re.search(r"SUMMARY: 0 (?:errors|hazards)", summary[-1]) is not None
    if not summary:
        return {"passed": False, "what": f"did not run: {_last_words(log)}", "clean": None}
    return {"passed": clean and ran, "what": summary[-1].lower(), "clean": clean}


# ---- measurements ----------------------------------------------------------------------------------------------------


def _bench(name: str, verb: str, *options: str, tiny: tuple[str, ...] = ()) -> Callable[[Check], list[list[str]]]:
    def commands(check: Check) -> list[list[str]]:
        chosen = tiny if check.dry_run else options
        return [check.dynamicseg("bench", verb, f"--device={check.device}", *chosen, "--json", str(check.output(name)))]

    return commands


def _read_loss(name: str) -> Callable[[Check, Path, int | None], Found]:
    def read(check: Check, log: Path, status: int | None) -> Found:
        if status != 0:
            return {"passed": False, "what": _last_words(log)}
        report = _json(check.output(name))
        calls = [
            result
            for entry in report["maps"]
            for result in entry["results"]
            if result["competitor"] in ("fused, one call", "fused, cooperative")
        ]
        slowest, least = max(call["times_limit"] for call in calls), min(call["speedup_over_eager"] for call in calls)
        what = f"at most {slowest:.2f} times the limit, at least {least:.1f} times eager"
        over = [call["speedup_over_compiled"] for call in calls if call["speedup_over_compiled"] is not None]
        what += f", {min(over):.1f} times compiled" if over else ", compiled not measured"
        return {"passed": True, "what": what, "report": report}

    return read


def _read_step(check: Check, log: Path, status: int | None) -> Found:
    if status != 0:
        return {"passed": False, "what": _last_words(log)}
    report = _json(check.output("step"))
    ours = next(result for result in reversed(report["results"]) if result["competitor"].startswith("fused"))
    what = f"{ours['competitor']} {ours['ms']['median']:.3f} ms, {ours['speedup_over_published']:.1f} times published"
    over = ours["speedup_over_compiled"]
    what += ", compiled not measured" if over is None else f", {over:.1f} times compiled"
    return {"passed": True, "what": what, "report": report}


def _segment(device: str) -> Callable[[Check], list[list[str]]]:
    name = f"segment-{device}"

    def commands(check: Check) -> list[list[str]]:
        options = ["--max-steps", "1"] if check.dry_run else []
        if check.data is not None and not check.dry_run:
            options += [str(check.data / "bsds500"), "--dataset=bsds500", f"--limit={10 if check.quick else 100}"]
        on = "cpu" if check.dry_run else device
        return [check.dynamicseg("bench", "segment", f"--device={on}", *options, "--json", str(check.output(name)))]

    return commands


def _read_segment(device: str) -> Callable[[Check, Path, int | None], Found]:
    def read(check: Check, log: Path, status: int | None) -> Found:
        if status != 0:
            return {"passed": False, "what": _last_words(log)}
        report = _json(check.output(f"segment-{device}"))
        what = f"{len(report['images'])} images in {report['seconds']:.2f} s"
        for name, score in (report["scores"] or {}).items():
            what += f", {name} {score:.3f}"
        other = check.output("segment-cuda")
        found: Found = {"report": report}
        if device == "cpu" and other.exists():
            found["gpu_speedup"] = report["seconds"] / _json(other)["seconds"]
            what += f"; the GPU is {found['gpu_speedup']:.1f} times faster"
        return {"passed": True, "what": what, **found}

    return read


_KERNELS = ("torch", "numpy")
_COMMAND_LINE = (*_KERNELS, "typer", "rich")
_ALL = (*_COMMAND_LINE, "pydantic", "scipy", "skimage", "PIL", "tifffile")
_TINY = ("--size=16x20", "--channels=8", "--repeats=1", "--no-compile")

PARTS = (
    Part("build", ("cmake", "pybind11", "scikit_build_core", *_KERNELS), _build, _read_build, 900, 300),
    Part("repeatable", _KERNELS, _repeatable, _read_repeatable, 180, 60),
    Part("memcheck", _KERNELS, _sanitized("memcheck"), _read_sanitized, 550, 120, tool="compute-sanitizer"),
    Part("racecheck", _KERNELS, _sanitized("racecheck"), _read_sanitized, 550, 120, tool="compute-sanitizer"),
    Part("loss", _COMMAND_LINE, _bench("loss", "loss", tiny=_TINY), _read_loss("loss"), 400, 120),
    Part(
        "loss-batch",
        _COMMAND_LINE,
        _bench("loss-batch", "loss", "--batch=16", tiny=(*_TINY, "--batch=2")),
        _read_loss("loss-batch"),
        400,
        120,
    ),
    Part("step", _ALL, _bench("step", "step", tiny=_TINY), _read_step, 400, 120),
    Part("tests", ("pytest", "skimage", *_KERNELS), _tests, _read_tests, 900, 180),
    Part("segment-cuda", _ALL, _segment("cuda"), _read_segment("cuda"), 300, 60),
    Part("segment-cpu", _ALL, _segment("cpu"), _read_segment("cpu"), 900, 90),
    Part("resources", (), _resources, _read_resources, 600, 120, tool="nvcc"),
)
