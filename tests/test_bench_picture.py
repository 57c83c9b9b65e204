"""The pictures of the documentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dynamicseg.bench.picture import app, picture, weights_chart

RESULTS = Path(__file__).parents[1] / "bench" / "results"


@pytest.mark.parametrize("with_truth", [False, True])
def test_a_row_for_each_photo_and_a_panel_for_each_segmentation(tmp_path: Path, with_truth: bool) -> None:
    pixels = np.full((24, 48, 3), 250, np.uint8)
    pixels[:, :20] = (20, 60, 200)
    photos = [tmp_path / "a.png", tmp_path / "b.png"]
    for photo in photos:
        Image.fromarray(pixels).save(photo)
    dataset = None
    if with_truth:
        savemat = pytest.importorskip("scipy.io").savemat
        (tmp_path / "val").mkdir()
        truth = np.empty((1, 1), object)
        truth[0, 0] = {"Segmentation": (pixels[..., 0] > 100).astype(np.uint16) + 1}
        for photo in photos:
            savemat(tmp_path / "val" / f"{photo.stem}.mat", {"groundTruth": truth})
        dataset = tmp_path / "val"

    shown = picture(photos, dataset, published_steps=1)
    panels = 4 if with_truth else 3
    assert shown.shape == (2 * (240 + 6), panels * 480 + (panels - 1) * 6, 3)
    assert tuple(shown[120, 100]) == (20, 60, 200)  # the photo comes first
    assert len(np.unique(shown[:240, -480:].reshape(-1, 3), axis=0)) > 2  # the regions are coloured


def history(steps: int) -> list[dict[str, Any]]:
    return [{"step": k, "loss": 3 / k, "n_labels": 90 // k, "weight": 6 / k} for k in range(1, steps + 1)]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_weights_over_steps(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"weights.{suffix}"
    weights_chart({"fsf": history(9), "scf": history(7)}, path)
    assert path.stat().st_size > 5000


def test_reports_of_one_data_set_become_one_chart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    reports = sorted(map(str, RESULTS.glob("quality-*.json")))
    assert len(reports) > 1
    done = CliRunner().invoke(app, ["quality", *reports, "-o", str(tmp_path / "chart.svg")])
    assert done.exit_code == 0, done.output
    drawn = (tmp_path / "chart.svg").read_text()
    for report in reports:
        for entry in json.loads(Path(report).read_text())["methods"]:
            assert f"<!-- {entry['method']}" in drawn  # matplotlib writes texts as comments beside their outlines
