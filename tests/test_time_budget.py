"""A time budget: when training stops for it, and that nothing else changes. No test waits: they move the clock."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import skimage.data

import dynamicseg as ds
from dynamicseg.grouping import Grouping
from dynamicseg.io import as_image
from dynamicseg.time_budget import StepClock

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])
LONG: dict[str, Any] = {"preset": "paper", "max_steps": 8, "min_labels": 1}


class Clock:
    """Stands still but for ``pass_seconds``."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def steps_in_time(clock: Clock, budget: float, seconds: Iterable[float]) -> int:
    """How many steps of these lengths are begun."""
    step_clock = StepClock(clock.now + budget)
    for step, length in enumerate(seconds, start=1):
        clock.pass_seconds(length)
        if not step_clock.another_step_fits():
            return step
    raise AssertionError("all steps were begun")


@pytest.mark.parametrize(("budget", "steps"), [(5.2, 5), (5.0, 4), (2.3, 1), (0.1, 1)])
def test_no_step_is_begun_that_would_end_late(clock: Clock, budget: float, steps: int) -> None:
    assert steps_in_time(clock, budget, [1.0] * 10) == steps


def test_the_first_step_is_known_to_be_shorter_than_the_others(clock: Clock) -> None:
    assert steps_in_time(clock, 3.0, [1.0, 2.0]) == 1


def test_steps_that_become_slower_are_seen_and_an_old_hiccup_is_forgotten(clock: Clock) -> None:
    assert steps_in_time(clock, 10.0, [1.0, 1.0, 1.0, 4.0, 4.0]) == 4
    assert steps_in_time(clock, 30.0, [1.0, 10.0] + [1.0] * 40) == 20


def test_without_a_budget_there_is_always_time(clock: Clock) -> None:
    step_clock = StepClock(None)
    clock.pass_seconds(1e9)
    assert step_clock.another_step_fits()


def test_training_stops_in_time_and_says_so(clock: Clock) -> None:
    segmentation = ds.segment(PHOTO, time_budget=4.5, on_step=lambda _: clock.pass_seconds(1.0), **LONG)
    assert segmentation.stopped == segmentation.metadata()["stopped"] == "time_budget"
    assert len(segmentation.history) == 4
    assert segmentation.config.time_budget == segmentation.metadata()["config"]["time_budget"] == 4.5


def test_the_budget_counts_from_the_start_of_segment(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_to_read(*arguments: Any, **options: Any) -> Any:
        clock.pass_seconds(60.0)
        return as_image(*arguments, **options)

    monkeypatch.setattr("dynamicseg.segmenter.as_image", slow_to_read)
    segmentation = ds.segment(PHOTO, time_budget=10, **LONG)
    assert segmentation.stopped == "time_budget"
    assert len(segmentation.history) == 1  # also where the time is up before training
    assert segmentation.labels.shape == PHOTO.shape[:2]


def test_the_budget_counts_grouping_but_not_what_lies_between_two_stages(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow_to_group(*arguments: Any) -> Grouping:
        clock.pass_seconds(2.0)
        return Grouping(*arguments)

    monkeypatch.setattr("dynamicseg.segmenter.Grouping", slow_to_group)
    segmenter = ds.Segmenter(time_budget=6.5, **LONG)
    prepared = segmenter.prepare(PHOTO)
    clock.pass_seconds(60.0)
    learned = segmenter.train(prepared, lambda _: clock.pass_seconds(1.0))
    clock.pass_seconds(60.0)
    segmentation = segmenter.finish(prepared, learned)
    assert (segmentation.stopped, len(segmentation.history)) == ("time_budget", 4)
    assert segmentation.timings["total"] == 6.0


def test_a_budget_that_is_not_reached_changes_no_bit() -> None:
    free, timed = (ds.segment(PHOTO, preset="paper", time_budget=budget, max_steps=3) for budget in (None, 1e6))
    assert np.array_equal(free.labels, timed.labels)
    assert free.history == timed.history
    assert free.stopped == timed.stopped == "max_steps"


def test_few_labels_are_the_reason_where_they_are() -> None:
    assert ds.segment(PHOTO, preset="paper", min_labels=60, max_steps=100).stopped == "few_labels"
