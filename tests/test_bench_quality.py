"""What the quality benchmark promises, without looking at how long anything takes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from scipy.io import savemat

from dynamicseg.bench import quality
from dynamicseg.evaluate import evaluate
from dynamicseg.evaluate import methods as evaluate_methods
from dynamicseg.io import write_json

CLASSICAL = ("felzenszwalb:min_size=5", "slic", "kmeans")
OURS = "dynamicseg:preset=paper:max_steps=2"
Photo = Callable[[str], NDArray[np.uint8]]


@pytest.fixture
def bsds(tmp_path: Path, photo: Photo) -> Path:
    """Three small images in the layout of BSDS500; the truth is four quarters, and two halves."""
    root = tmp_path / "bsds"
    for folder in ("images", "groundTruth"):
        (root / folder / "val").mkdir(parents=True)
    for k in range(3):
        image = photo("chelsea")[k::8, k::8][:36, :54]
        Image.fromarray(image).save(root / "images" / "val" / f"{k}.jpg")
        rows, columns = np.indices(image.shape[:2])
        maps = [1 + rows // 18 + 2 * (columns // 27), 1 + rows // 18]
        cells = np.empty((1, 2), object)
        for number, labels in enumerate(maps):
            cells[0, number] = {"Segmentation": labels.astype(np.uint16)}
        savemat(root / "groundTruth" / "val" / f"{k}.mat", {"groundTruth": cells})
    return root


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shapes of the images that k-means is called with, warm-up left out."""
    seen: list[str] = []
    prepared = evaluate_methods._OTHERS["kmeans"]

    def spy(options: Any, seed: int) -> evaluate_methods.Segment:
        segment = prepared(options, seed)

        def counted(image: NDArray[Any]) -> NDArray[Any]:
            if image.shape != (32, 48, 3):
                seen.append(f"seed {seed}")
            return segment(image)

        return counted

    monkeypatch.setitem(evaluate_methods._OTHERS, "kmeans", spy)
    return seen


class TestRun:
    def test_report(self, bsds: Path) -> None:
        report = quality.run(bsds, methods=(OURS, *CLASSICAL), seeds=2, limit=2)
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        assert report["images"] == ["0", "1"]
        assert [entry["method"] for entry in report["methods"]] == [OURS, *CLASSICAL]
        for entry in report["methods"]:
            seeded = entry["name"] in ("dynamicseg", "kmeans")
            assert entry["seeds"] == ([0, 1] if seeded else [0])
            score = entry["scores"]["segment-iou"]["all"]
            values = [run["scores"]["segment-iou"]["all"] for run in entry["runs"]]
            assert score["mean"] == pytest.approx(np.mean(values))
            assert score["std"] == (pytest.approx(np.std(values, ddof=1)) if seeded else None)
            assert all(len(run["seconds"]) == len(run["per_image"]) == 2 for run in entry["runs"])
            assert 0 < entry["seconds"]["q20"] <= entry["seconds"]["median"] <= entry["seconds"]["q80"]
            assert entry["regions"] >= 1
        assert report["methods"][0]["options"]["max_steps"] == 2
        assert report["methods"][1]["options"] == {"scale": 300.0, "sigma": 0.8, "min_size": 5}

    def test_every_then_limit(self, bsds: Path) -> None:
        assert quality.run(bsds, methods=["slic"], every=2)["images"] == ["0", "2"]
        assert quality.run(bsds, methods=["slic"], every=2, limit=2)["images"] == ["0", "2"]
        assert quality.run(bsds, methods=["slic"], every=2, limit=1)["images"] == ["0"]

    def test_ours_takes_preset_and_options(self, bsds: Path) -> None:
        report = quality.run(bsds, methods=["dynamicseg"], limit=1, preset="paper", options={"max_steps": 1})
        assert report["methods"][0]["options"]["preset"] == "paper"
        assert report["methods"][0]["options"]["max_steps"] == 1

    def test_scores_as_evaluate_does(self, bsds: Path, tmp_path: Path) -> None:
        report = quality.run(bsds, methods=["kmeans"], output=tmp_path / "out")
        again = evaluate(tmp_path / "out" / "kmeans" / "seed0", bsds, "bsds500")
        assert report["methods"][0]["runs"][0]["scores"] == again["scores"]

    def test_progress(self, bsds: Path) -> None:
        told: list[str] = []
        quality.run(bsds, methods=["slic", "kmeans"], limit=1, progress=told.append)
        assert told == ["image 1 of 1, 0: slic", "image 1 of 1, 0: kmeans, seed 0"]


class TestResume:
    def test_what_is_done_is_not_done_again(self, bsds: Path, tmp_path: Path, calls: list[str]) -> None:
        def run(**changes: Any) -> dict[str, Any]:
            return quality.run(bsds, methods=["kmeans"], output=tmp_path / "out", **changes)

        first = run(limit=2)
        assert calls == ["seed 0"] * 2
        assert run(limit=2)["methods"] == first["methods"]
        assert len(calls) == 2
        run(seeds=2)
        assert sorted(calls[2:]) == ["seed 0"] + ["seed 1"] * 3

    @pytest.mark.parametrize("damage", ["settings", "photo", "record", "label map"])
    def test_what_does_not_fit_is_done_again(
        self, bsds: Path, tmp_path: Path, calls: list[str], damage: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        quality.run(bsds, methods=["kmeans"], limit=1, output=tmp_path / "out")
        folder = tmp_path / "out" / "kmeans" / "seed0"
        if damage == "settings":
            monkeypatch.setitem(evaluate_methods.DEFAULTS, "kmeans", {"k": 3, "iterations": 20})
        elif damage == "photo":
            Image.new("RGB", (54, 36)).save(bsds / "images" / "val" / "0.jpg")
        elif damage == "record":
            (folder / "0.json").write_text("{")
        else:
            (folder / "0_labels.png").unlink()
        quality.run(bsds, methods=["kmeans"], limit=1, output=tmp_path / "out")
        assert len(calls) == 2


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"limit": 0}, "limit is 0"),
            ({"every": 0}, "every is 0"),
            ({"seeds": 0}, "seeds is 0"),
            ({"methods": []}, "name at least one"),
            ({"methods": ["slic", "slic"]}, "none twice"),
            ({"methods": ["watershed"]}, "choose from"),
            ({"methods": ["dynamicseg:max_steps=0"]}, "max_steps"),
            ({"split": "test"}, "has no split 'test'"),
        ],
    )
    def test_arguments(self, bsds: Path, arguments: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            quality.run(bsds, **arguments)

    def test_missing_photos_are_named(self, bsds: Path) -> None:
        (bsds / "images" / "val" / "1.jpg").unlink()
        with pytest.raises(ValueError, match="holds no photo of 1"):
            quality.run(bsds, methods=["slic"])

    def test_a_method_that_fails_is_named_with_its_image(self, bsds: Path) -> None:
        with pytest.raises(RuntimeError, match=r"slic:n_segments=0: failed on .*0\.jpg: "):
            quality.run(bsds, methods=["slic:n_segments=0"])


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """What `table` and `plot` read of a report."""

    def entry(method: str, seconds: float, value: float, seeds: list[int]) -> dict[str, Any]:
        score = {"mean": value, "std": 0.004 if len(seeds) > 1 else None}
        scores: dict[str, Any] = {}
        for protocol, name in quality._COLUMNS.values():
            scores.setdefault(protocol, {})[name] = score
        return {"method": method, "seconds": {"median": seconds}, "regions": 17.2, "scores": scores, "seeds": seeds}

    return {
        "settings": {"dataset": "bsds500", "split": "val"},
        "environment": {"cpu": "A Fast One", "threads": 2},
        "images": ["0", "1"],
        "methods": [entry("dynamicseg", 3.21, 0.365, [0, 1, 2]), entry("felzenszwalb:scale=200", 0.3, 0.352, [0])],
    }


def test_table(report: dict[str, Any]) -> None:
    console = Console(file=StringIO(), width=100)
    console.print(quality.table(report))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for text in (
        "2 images",
        "A Fast One",
        "dynamicseg",
        "3.21",
        "0.365",
        "±0.004",
        "3 seeds",
        "felzenszwalb:scale=200",
    ):
        assert text in shown
    assert max(len(line) for line in shown.splitlines()) <= 100


def test_json_round_trip(report: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", report)
    assert json.loads((tmp_path / "report.json").read_text()) == report


class TestMerged:
    def test_methods_on_fewer_images_say_so(self, report: dict[str, Any]) -> None:
        other = {**report, "images": ["0"], "methods": [{**report["methods"][0], "method": "slow"}]}
        merged = quality.merged([other, report])
        assert merged["images"] == report["images"]
        assert [entry["method"] for entry in merged["methods"]] == [
            *("slow, 1 image", "dynamicseg", "felzenszwalb:scale=200")
        ]

    def test_other_data_sets_are_refused(self, report: dict[str, Any]) -> None:
        other = {**report, "settings": {**report["settings"], "split": "test"}}
        with pytest.raises(ValueError, match="2 data sets or parts"):
            quality.merged([report, other])


class TestPlot:
    def test_without_matplotlib(self, report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(RuntimeError, match="needs matplotlib"):
            quality.plot(report, tmp_path / "report.png")

    def test_scores_without_time_are_a_line_and_a_row(self, report: dict[str, Any], tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        first, *others = report["methods"]
        timeless = {**report, "methods": [{**first, "seconds": None}, *others]}
        quality.plot(timeless, tmp_path / "chart.svg")
        assert "dynamicseg, time not measured" in (tmp_path / "chart.svg").read_text()
        console = Console(file=StringIO(), width=100)
        console.print(quality.table(timeless))
        assert "3.21" not in console.file.getvalue()  # type: ignore[attr-defined]

    @pytest.mark.parametrize("suffix", [".png", ".svg"])
    def test_draws(self, report: dict[str, Any], tmp_path: Path, suffix: str) -> None:
        pytest.importorskip("matplotlib")
        quality.plot(report, tmp_path / f"report{suffix}")
        assert (tmp_path / f"report{suffix}").stat().st_size > 1000

    def test_unknown_format(self, report: dict[str, Any], tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        with pytest.raises(ValueError, match="not supported"):
            quality.plot(report, tmp_path / "report.xyz")
        assert list(tmp_path.iterdir()) == []
