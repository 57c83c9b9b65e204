"""From two folders to a report: what is scored, what is refused, what is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from rich.console import Console
from scipy.io import savemat

from dynamicseg.evaluate import PROTOCOLS, evaluate, table
from dynamicseg.io import write_label_map

SEGMENTS = ("segment-iou", "regions", "boundaries")


def write(path: Path, labels: ArrayLike) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label_map(path, np.array(labels, np.int32))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Predictions and truth of two images, right but for one pixel."""
    predictions, truth = tmp_path / "out", tmp_path / "truth"
    write(predictions / "a_labels.png", [[3, 3, 7, 7]])
    write(predictions / "sub" / "b_labels.png", [[7, 7, 7]])
    write(truth / "a.png", [[0, 0, 1, 1]])
    write(truth / "sub" / "b.tif", [[1, 1, 0]])
    return predictions, truth


@pytest.fixture
def bsds(tmp_path: Path) -> Path:
    cells = np.empty((1, 2), object)
    for k, labels in enumerate(([[1, 1, 2, 2]], [[1, 1, 1, 1]])):
        cells[0, k] = {"Segmentation": np.array(labels, np.uint16)}
    (tmp_path / "bsds" / "groundTruth" / "test").mkdir(parents=True)
    savemat(tmp_path / "bsds" / "groundTruth" / "test" / "a.mat", {"groundTruth": cells})
    return tmp_path / "bsds"


class TestEvaluate:
    def test_labels(self, folders: tuple[Path, Path]) -> None:
        report = evaluate(*folders, "labels")
        assert json.loads(json.dumps(report, allow_nan=False)) == report
        assert list(report["scores"]) == list(PROTOCOLS)
        assert report["images"] == 2
        assert report["scores"]["hungarian"]["pixel_accuracy"] == pytest.approx(6 / 7)
        assert report["scores"]["hungarian"]["class_iou"] == {"0": pytest.approx(2 / 3), "1": pytest.approx(4 / 5)}
        assert report["scores"]["segment-iou"]["all"] == pytest.approx((1 + 1 + 2 / 3 + 1 / 3) / 4)
        assert [row["stem"] for row in report["per_image"]] == ["a", "sub/b"]
        assert report["per_image"][1]["segment-iou"]["all"] == pytest.approx(1 / 2)
        assert "hungarian" not in report["per_image"][0]

    def test_bsds(self, folders: tuple[Path, Path], bsds: Path) -> None:
        (folders[0] / "sub" / "b_labels.png").unlink()
        report = evaluate(folders[0], bsds, "bsds500")
        assert (report["dataset"], report["split"]) == ("bsds500", "test")
        assert tuple(report["scores"]) == SEGMENTS
        assert report["scores"]["segment-iou"] == {
            "all": pytest.approx((1 + 1 + 1 / 2) / 3),
            "fine": 1,
            "coarse": 1 / 2,
            "segments": 3,
        }

    @pytest.mark.parametrize(
        ("asked", "found"),
        [
            ("majority", ["majority"]),
            (["regions", "segment-iou"], ["segment-iou", "regions"]),
            (["all", "regions"], list(PROTOCOLS)),
        ],
    )
    def test_protocols(self, folders: tuple[Path, Path], asked: Any, found: list[str]) -> None:
        assert list(evaluate(*folders, "labels", asked)["scores"]) == found

    def test_classes_are_not_asked_of_segments(self, folders: tuple[Path, Path], bsds: Path) -> None:
        with pytest.raises(ValueError, match="the segments of bsds500 have none: choose segment-iou, regions"):
            evaluate(folders[0], bsds, "bsds500", "hungarian")

    def test_ignore_label(self, folders: tuple[Path, Path]) -> None:
        write(folders[1] / "a.png", [[0, 0, 9, 9]])
        report = evaluate(*folders, "labels", "majority", ignore_label=9)
        assert report["ignore_label"] == 9
        assert report["scores"]["majority"]["classes"] == 2

    def test_images_without_labels_are_left_out(self, folders: tuple[Path, Path]) -> None:
        write(folders[1] / "a.png", [[9, 9, 9, 9]])
        report = evaluate(*folders, "labels", ignore_label=9)
        assert (report["images"], report["skipped"]) == (1, ["a"])
        write(folders[1] / "sub" / "b.tif", [[9, 9, 9]])
        with pytest.raises(ValueError, match="no image has a pixel that counts"):
            evaluate(*folders, "labels", ignore_label=9)

    def test_resize(self, folders: tuple[Path, Path]) -> None:
        write(folders[0] / "a_labels.png", [[3, 7]])
        report = evaluate(*folders, "labels", "segment-iou", resize="nearest")
        assert report["per_image"][0]["segment-iou"]["all"] == 1

    def test_progress(self, folders: tuple[Path, Path]) -> None:
        told: list[tuple[int, int]] = []
        evaluate(*folders, "labels", "regions", progress=lambda done, of: told.append((done, of)))
        assert told == [(1, 2), (2, 2)]


class TestRefusals:
    def test_sizes_and_damage_are_all_named(self, folders: tuple[Path, Path]) -> None:
        write(folders[0] / "a_labels.png", [[3, 7]])
        write(folders[0] / "c_labels.png", [[3, 7]])
        write(folders[1] / "c.png", [[3], [7]])
        (folders[0] / "sub" / "b_labels.png").write_bytes(b"no image")
        with pytest.raises(ValueError) as caught:
            evaluate(*folders, "labels")
        text = str(caught.value)
        assert text.startswith(f"{folders[0]}: wrong size")
        assert "a is 2x1, its truth 4x1, c is 2x1, its truth 1x2" in text
        assert "unreadable" in text
        assert "b_labels.png" in text
        assert "\n" not in text

    def test_missing_and_extra(self, folders: tuple[Path, Path]) -> None:
        (folders[0] / "a_labels.png").rename(folders[0] / "z_labels.png")
        with pytest.raises(ValueError, match=r"for 1 of 2 images: a; 1 label maps .*: z"):
            evaluate(*folders, "labels")

    def test_annotators_of_different_sizes(self, folders: tuple[Path, Path], bsds: Path) -> None:
        cells = np.empty((1, 2), object)
        for k in range(2):
            cells[0, k] = {"Segmentation": np.ones((1, 4 + k), np.uint16)}
        savemat(bsds / "groundTruth" / "test" / "a.mat", {"groundTruth": cells})
        (folders[0] / "sub" / "b_labels.png").unlink()
        with pytest.raises(ValueError, match=r"a\.mat: holds maps of different sizes"):
            evaluate(folders[0], bsds, "bsds500")

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"protocol": "segment_iou"}, "did you mean segment-iou"),
            ({"protocol": []}, "no protocol"),
            ({"resize": "linear"}, "choose nearest"),
            ({"dataset": "cityscapes"}, "choose bsds500"),
        ],
    )
    def test_arguments(self, folders: tuple[Path, Path], arguments: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            evaluate(*folders, **{"dataset": "labels", **arguments})


def test_table_shows_every_protocol(folders: tuple[Path, Path]) -> None:
    console = Console(file=StringIO(), width=100)
    console.print(table(evaluate(*folders, "labels")))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "labels: 2 images" in shown
    assert all(name in shown for name in PROTOCOLS)
    assert "0.857" in shown


def test_needs_no_torch(run_python: Callable[..., CompletedProcess[str]]) -> None:
    done = run_python("import sys, dynamicseg.evaluate, dynamicseg.bench.quality; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr
