"""Strokes made from annotations, and the benchmark that draws them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.ndimage import label

from dynamicseg.bench import guidance
from dynamicseg.bench.strokes import drawn_strokes


def test_each_segment_has_one_stroke_within_it() -> None:
    segments = np.ones((60, 80), int)
    segments[:, 40:] = 7
    segments[10:30, 10:35] = 3
    segments[50, 70] = 9  # a single pixel
    strokes = drawn_strokes(segments, 0)
    for position, number in enumerate((1, 3, 7, 9)):
        stroke = strokes == position
        assert stroke.any()
        assert (segments[stroke] == number).all()
        assert label(stroke, np.ones((3, 3)))[1] == 1
    assert (strokes >= 0).mean() < 0.15
    bar = np.zeros((9, 101), int)
    length = np.ptp(np.nonzero(drawn_strokes(bar, 0) == 0)[1]) + 1
    assert 40 <= length <= 60  # half of a skeleton along the bar
    assert (drawn_strokes(bar, 0) == 0).sum(axis=0).max() == 3
    assert np.array_equal(drawn_strokes(segments, 5), drawn_strokes(segments, 5))
    assert not np.array_equal(drawn_strokes(bar, 0), drawn_strokes(bar, 1))


@pytest.mark.dataset
def test_scribbles_help_on_annotated_images(dataset: Callable[[str], Path]) -> None:
    report = guidance.run(dataset("bsds500"), rows=["none", "scribbles"], every=40, limit=2)
    json.dumps(report)
    without, with_scribbles = (row["scores"]["segment-iou"]["coarse"] for row in report["rows"])
    assert with_scribbles > without
    console = Console(width=100)
    with console.capture() as capture:
        console.print(guidance.table(report))
    assert f"{with_scribbles:.3f}" in capture.get()


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"row 'scribble': choose from none, .*; did you mean scribbles\?"):
        guidance.run(tmp_path, rows=["scribble"])
    with pytest.raises(ValueError, match="every is 0: pass at least 1"):
        guidance.run(tmp_path, every=0)
