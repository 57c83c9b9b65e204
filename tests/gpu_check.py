"""`make gpu-check`: builds, tests, sanitizes and measures on an NVIDIA GPU, and writes all of it into one JSON.

    python tests/gpu_check.py [--quick] [--parts build,tests,...] [--json FILE] [--wheels FOLDER] [--data FOLDER]
                              [--commit TEXT] [--dry-run]

It needs no network: the Python that runs it has PyTorch, pybind11, scikit-build-core, cmake and ninja. The package is
built and installed into a virtual environment of its own in build/gpu-check, which also sees what that Python has.
Whatever else is missing is named first, with the parts that are left out for it; `--wheels` names a folder of wheels to
install it from (made elsewhere by `pip download --only-binary :all: -d FOLDER pydantic`, for the same Python).

Each part is a process with a time limit and a log beside the environment. The JSON is written after each part, so that
nothing is lost whatever happens to the next. With `--parts`, parts of an earlier run on the same device, day and
commit stay in it, and its build is used again. Exit status: 0 all passed; 1 some did not; 2 there is no GPU, or the
call is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_check_parts import PARTS, Check, Part

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "gpu-check"
QUICK_SECONDS = 460
_GRACE_SECONDS = 15  # to write what there is, after an interrupt

# Modules, and what to install for them.
MODULES = {
    "torch": "torch",
    "cmake": "cmake",
    "ninja": "ninja",
    "pybind11": "pybind11",
    "scikit_build_core": "scikit-build-core",
    "numpy": "numpy",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "PIL": "pillow",
    "tifffile": "tifffile",
    "pydantic": "pydantic",
    "rich": "rich",
    "typer": "typer",
    "pytest": "pytest",
    "pytest_timeout": "pytest-timeout",
    "hypothesis": "hypothesis",
    "triton": "triton",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts; see the top of this file."""
    parser = argparse.ArgumentParser(description="Build, test, sanitize and measure on an NVIDIA GPU.")
    parser.add_argument("--quick", action="store_true", help="a selection that fits into eight minutes")
    parser.add_argument("--parts", help=f"some of {','.join(part.name for part in PARTS)}")
    parser.add_argument("--json", type=Path, help="(default: bench/results/gpu-DEVICE-DATE.json)")
    parser.add_argument("--wheels", type=Path, help="folder of wheels for what is missing")
    parser.add_argument("--data", type=Path, default=os.environ.get("DYNAMICSEG_DATA"), help="folder with bsds500")
    parser.add_argument("--commit", help="(default: that of the checkout)")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, on tiny inputs, as far as it goes")
    chosen = parser.parse_args(arguments)
    names = [part.name for part in PARTS] if chosen.parts is None else chosen.parts.split(",")
    unknown = [name for name in names if name not in {part.name for part in PARTS}]
    if unknown:
        parser.error(f"there is no part {unknown[0]}: choose from {', '.join(part.name for part in PARTS)}")
    if chosen.data is not None and not (Path(chosen.data) / "bsds500").is_dir():
        parser.error(f"{chosen.data} holds no folder bsds500")

    machine = {"device": "dry run"} if chosen.dry_run else gpu()
    if "problem" in machine:
        print(f"gpu-check: {machine['problem']}", file=sys.stderr)
        return 2
    WORK.mkdir(parents=True, exist_ok=True)
    check = Check(
        root=ROOT,
        work=WORK,
        python=Path(sys.executable),
        device="cpu" if chosen.dry_run else "cuda",
        capability=machine.get("capability"),
        quick=chosen.quick,
        dry_run=chosen.dry_run,
        data=None if chosen.data is None else Path(chosen.data).resolve(),
    )
    if not chosen.dry_run:
        check.python = own_environment(chosen.wheels)
    missing = missing_modules(check.python)
    if "pytest_timeout" not in missing:
        check.pytest_plugins.add("timeout")
    report = begun_report(chosen, machine, missing)
    path = chosen.json or default_path(machine, chosen.dry_run)
    keep_earlier(report, path, names)
    announce(report, missing, [part for part in PARTS if part.name in names])
    deadline = time.monotonic() + QUICK_SECONDS if chosen.quick else None
    for part in PARTS:
        if part.name in names:
            result = run_part(part, check, missing, deadline)
            report["parts"][part.name] = result
            write(path, report)
            print(line(part.name, result), flush=True)
    print(f"\n{'part':<14}{'verdict':<12}{'seconds':>8}  what")
    for name, result in report["parts"].items():
        print(line(name, result))
    print(f"\n{path}")
    fine = ("passed", "left out") if chosen.dry_run else ("passed",)
    return 0 if all(report["parts"][name]["verdict"] in fine for name in names) else 1


# ---- the machine -----------------------------------------------------------------------------------------------------

_GPU = """
import json, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda}
if torch.cuda.is_available():
    properties = torch.cuda.get_device_properties(0)
    found |= {"device": properties.name, "capability": f"{properties.major}{properties.minor}",
              "multiprocessors": properties.multi_processor_count, "memory_bytes": properties.total_memory,
              "l2_bytes": properties.L2_cache_size}
print(json.dumps(found))
"""


def gpu() -> dict[str, Any]:
    """The GPU and its software; or ``problem``, one line, where the check cannot run."""
    if importlib.util.find_spec("torch") is None:
        return {"problem": f"{sys.executable} has no PyTorch: make gpu-check PYTHON=... takes one that has it"}
    done = subprocess.run([sys.executable, "-c", _GPU], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"problem": f"PyTorch cannot be asked for a GPU: {' '.join(done.stderr.split()[-30:])}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "device" not in found:
        return {"problem": f"PyTorch {found['torch']} finds no NVIDIA GPU here; --dry-run runs the same on the CPU"}
    nvcc = shutil.which(os.environ.get("CUDACXX", "nvcc"))
    if nvcc is None:
        return {"problem": "there is no nvcc: install the CUDA toolkit, put it on PATH or set CUDACXX"}
    return (
        found
        | {"driver": _first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])}
        | {
            "nvcc": _last_line([nvcc, "--version"]),
            "clocks_mhz": _first_line(
                ["nvidia-smi", "--query-gpu=clocks.max.sm,clocks.max.mem", "--format=csv,noheader"]
            ),
        }
    )


def _first_line(command: list[str]) -> str | None:
    return next(iter(_lines(command)), None)


def _last_line(command: list[str]) -> str | None:
    return next(reversed(_lines(command)), None)


def _lines(command: list[str]) -> list[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def own_environment(wheels: Path | None) -> Path:
    """Python of the virtual environment in build/gpu-check, which sees the packages of this one, but no hooks of it."""
    folder = WORK / "venv"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = [path for path in sys.path if path.endswith("-packages")]
    for own in (folder / "lib").glob("python*/site-packages"):
        (own / "outer.pth").write_text("".join(f"{path}\n" for path in packages))
    names = [MODULES[module] for module in missing_modules(python)]
    if wheels is not None and names:
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-index", f"--find-links={wheels.resolve()}"]
        for name in names:  # what the folder lacks is named as missing below
            subprocess.run([*command, name], check=False, capture_output=True)
    return python


def missing_modules(python: Path) -> list[str]:
    """Those of ``MODULES`` that ``python`` does not find; build tools may also be commands."""
    code = "import importlib.util, sys; print(*[n for n in sys.argv[1:] if importlib.util.find_spec(n) is None])"
    done = subprocess.run([str(python), "-c", code, *MODULES], capture_output=True, text=True, check=True, cwd=WORK)
    return [module for module in done.stdout.split() if module not in ("cmake", "ninja") or not shutil.which(module)]


# ---- the report ------------------------------------------------------------------------------------------------------


def begun_report(chosen: argparse.Namespace, machine: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    """Without parts yet."""
    commit = chosen.commit or _first_line(["git", "-C", str(ROOT), "rev-parse", "HEAD"])
    changes = _lines(["git", "--no-optional-locks", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return {
        "schema_version": 1,
        "benchmark": "gpu-check",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "dirty": bool(changes) if commit and not chosen.commit else None,
        "machine": machine,
        "python": sys.version.split()[0],
        "quick": chosen.quick,
        "missing": [MODULES[module] for module in missing],
        "parts": {},
    }


def default_path(machine: dict[str, Any], dry_run: bool) -> Path:
    """Where the JSON goes."""
    if dry_run:
        return WORK / "dry-run.json"
    device = re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    return ROOT / "bench" / "results" / f"gpu-{device}-{datetime.date.today().isoformat()}.json"


def keep_earlier(report: dict[str, Any], path: Path, names: list[str]) -> None:
    """Parts of an earlier run that are not run now, where device and commit are the same."""
    try:
        earlier = json.loads(path.read_text())
        same = (earlier["machine"], earlier["commit"]) == (report["machine"], report["commit"])
        kept = {name: result for name, result in earlier["parts"].items() if name not in names} if same else {}
    except (OSError, ValueError, KeyError, TypeError):
        kept = {}
    report["parts"].update(kept)


def write(path: Path, report: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = [part.name for part in PARTS]
    report["parts"] = dict(sorted(report["parts"].items(), key=lambda item: order.index(item[0])))
    aside = path.with_name(path.name + ".part")
    aside.write_text(json.dumps(report, indent=1) + "\n")
    aside.replace(path)


def announce(report: dict[str, Any], missing: list[str], parts: list[Part]) -> None:
    """What is here, what is not, and what is left out for it."""
    machine = report["machine"]
    print(", ".join(f"{name} {value}" for name, value in machine.items() if value is not None))
    for module in missing:
        without = [part.name for part in parts if module in part.needs]
        print(f"missing: {MODULES[module]}; left out: {', '.join(without) or 'nothing'}")
    for tool in {part.tool for part in parts if part.tool and shutil.which(part.tool) is None}:
        print(f"missing: {tool}; left out: {', '.join(part.name for part in parts if part.tool == tool)}")
    print(flush=True)


def line(name: str, result: dict[str, Any]) -> str:
    """A row of the table."""
    return f"{name:<14}{result['verdict']:<12}{result['seconds']:>8.1f}  {result['what']}"


# ---- one part --------------------------------------------------------------------------------------------------------


def run_part(part: Part, check: Check, missing: list[str], deadline: float | None) -> dict[str, Any]:
    """Its result: ``verdict`` (passed, failed, time limit, left out), ``seconds``, ``what``, and what it found."""
    lacking = [MODULES[module] for module in missing if module in part.needs]
    if part.tool and shutil.which(part.tool) is None:
        lacking.append(part.tool)
    if lacking:
        return {"verdict": "left out", "seconds": 0.0, "what": f"missing: {', '.join(lacking)}"}
    limit = part.quick_limit if check.quick else part.limit
    if deadline is not None:
        limit = min(limit, deadline - time.monotonic())
        if limit < 5:
            return {"verdict": "left out", "seconds": 0.0, "what": "no time is left"}
    log = check.work / f"{part.name}.log"
    for old in check.work.glob(f"{part.name}.*"):
        old.unlink()
    start = time.monotonic()
    status = None
    for command in part.commands(check):
        status = run_limited(command, check, log, limit - (time.monotonic() - start))
        if status != 0:
            break
    seconds = time.monotonic() - start
    try:
        found = part.read(check, log, status)
    except Exception as error:  # whatever a part has left behind, the next ones go on
        found = {"passed": False, "what": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    verdict = "passed" if found.pop("passed") and status == 0 else "failed"
    if status is None:
        verdict = "time limit"
    if verdict != "passed":
        found["log"] = log.read_text(errors="replace").splitlines()[-30:] if log.exists() else []
    return {"verdict": verdict, "seconds": round(seconds, 1), **found}


def run_limited(command: Sequence[str], check: Check, log: Path, limit: float) -> int | None:
    """Exit status of a process whose words go to ``log``; None: it ran into the limit, and was interrupted."""
    with log.open("a") as words:
        words.write(f"$ {' '.join(command)}\n")
        words.flush()
        try:
            process = subprocess.Popen(
                command,
                stdout=words,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=check.root,
                env=check.environment(),
                start_new_session=True,
            )
        except OSError as error:
            words.write(f"{error}\n")
            return 127
        try:
            return process.wait(max(limit, 1))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
