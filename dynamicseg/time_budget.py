"""Whether another training step would still end in time."""

from __future__ import annotations

import time

# The first step has no backward pass before it: a whole one takes 1.3 to 1.6 times as long, measured.
_WHOLE_STEP = 2.0
# For steps that are slower than those before. Regions and label counts come after training, and on top of it: for a
# photo they take less than a step.
_MARGIN = 1.1
_RECENT = 3


class StepClock:
    """Goes along with a training loop; made when the first step begins.

    Args:
        deadline: the time, as ``time.perf_counter`` has it, that no step should pass; None: there is none.
    """

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._step_began = time.perf_counter()
        self._seconds: list[float] = []

    def another_step_fits(self) -> bool:
        """Whether the next step would end before the deadline; to be asked once at the end of each step.

        It is taken to last as long as the longest of the last three, and a little more.
        """
        if self._deadline is None:
            return True
        now = time.perf_counter()
        self._seconds.append(now - self._step_began)
        self._step_began = now
        next_step = max(self._seconds[-_RECENT:]) if len(self._seconds) > 1 else _WHOLE_STEP * self._seconds[0]
        return now + _MARGIN * next_step <= self._deadline
