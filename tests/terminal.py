"""What a command shows on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Sequence
from pathlib import Path


def shown_on_terminal(command: Sequence[str], folder: Path) -> str:
    """All that ``command``, run in ``folder``, writes on a terminal of 120 columns; it must succeed."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command, cwd=folder, stderr=child, stdout=child, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    )
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
    os.close(parent)
    assert process.wait(timeout=60) == 0, shown.decode()
    return shown.decode()
