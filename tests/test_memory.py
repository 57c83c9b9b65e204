"""What the machine still has, as the system and its control group tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamicseg.memory import available_memory, usable_cores

_FILES = {
    "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n",
    "/sys/fs/cgroup/memory.max": "4096000\n",
    "/sys/fs/cgroup/memory.current": "1024000\n",
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 3_072_000),  # the group allows less than the system has
        ({"/sys/fs/cgroup/memory.max": "max\n"}, 5_120_000),
        ({"/sys/fs/cgroup/memory.max": None}, 5_120_000),
        ({"/sys/fs/cgroup/memory.max": "999999999999\n"}, 5_120_000),
        ({"/proc/meminfo": None}, None),
        ({"/proc/meminfo": "MemTotal: 9000 kB\n"}, None),
    ],
)
def test_available_memory(
    changes: dict[str, str | None], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {**_FILES, **changes}

    def read_text(path: Path, *_: object) -> str:
        text = files.get(str(path))
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(Path, "read_text", read_text)
    assert available_memory() == expected


def test_usable_cores() -> None:
    assert usable_cores() >= 1
