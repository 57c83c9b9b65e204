"""What a measurement depends on besides the code: stamped into every report."""

from __future__ import annotations

import datetime
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamicseg import _native
from dynamicseg.memory import usable_cores

_SOURCE = Path(__file__).resolve().parents[1]


def environment() -> dict[str, Any]:
    """The machine, its software and the time, as JSON-able values; what is not known is None.

    ``cores`` counts those that this process may use, ``threads`` those that PyTorch and the kernels use now,
    ``git_commit`` is the one of the checkout that this file lies in, and ``date`` is in UTC.
    """
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "instruction_set": _native.instruction_set(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "dynamicseg": version("dynamicseg"),
        "git_commit": git_commit(),
        "git_dirty": git_dirty(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor, from the system's own list where there is one."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.processor() or platform.machine() or "unknown")


def git_commit() -> str | None:
    """Commit of the checkout that this file is part of; None where it is installed, or nothing is committed."""
    return _git("rev-parse", "HEAD") if _in_checkout() else None


def git_dirty() -> bool | None:
    """Whether that checkout has changes, files that git does not know included; None where there is no commit."""
    return bool(_git("status", "--porcelain")) if git_commit() else None


def _in_checkout() -> bool:
    # An installed copy may lie inside somebody else's checkout, whose commit says nothing about us.
    top = _git("rev-parse", "--show-toplevel")
    return top is not None and Path(top).resolve() == _SOURCE


def _git(*arguments: str) -> str | None:
    # Without the optional lock, which would get in the way of somebody's commit.
    command = ["git", "--no-optional-locks", "-C", str(_SOURCE), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
