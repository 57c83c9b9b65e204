"""Exit statuses of the command line."""

from __future__ import annotations

import signal

DONE = 0
SOME_FAILED = 1
"""Some inputs failed, each named with its reason; the others are finished."""
WRONG_CALL = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
