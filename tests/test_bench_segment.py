"""What `dynamicseg bench segment` promises, without looking at how long anything takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from scipy.io import savemat
from staged import StagedSegmenter

from dynamicseg.bench import segment
from dynamicseg.evaluate import evaluate
from dynamicseg.inputs import find_images
from dynamicseg.segment_work import SegmentWork

Photo = Callable[[str], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def bsds(tmp_path_factory: pytest.TempPathFactory, photo: Photo) -> Path:
    """Two small images in the layout of BSDS500; the truth is two halves."""
    root = tmp_path_factory.mktemp("bsds")
    for folder in ("images", "groundTruth"):
        (root / folder / "val").mkdir(parents=True)
    for k in range(2):
        image = photo("chelsea")[k::8, k::8][:36, :54]
        Image.fromarray(image).save(root / "images" / "val" / f"{k}.jpg")
        cells = np.empty((1, 1), object)
        cells[0, 0] = {"Segmentation": (1 + np.indices(image.shape[:2])[0] // 18).astype(np.uint16)}
        savemat(root / "groundTruth" / "val" / f"{k}.mat", {"groundTruth": cells})
    return root


@pytest.fixture(scope="module")
def report(bsds: Path) -> dict[str, Any]:
    return segment.run([str(bsds)], dataset="bsds500", max_steps=2)


class TestReport:
    def test_is_json(self, report: dict[str, Any]) -> None:
        assert json.loads(json.dumps(report, allow_nan=False)) == report

    def test_phases(self, report: dict[str, Any]) -> None:
        assert [Path(image["path"]).name for image in report["images"]] == ["0.jpg", "1.jpg"]
        for image in report["images"]:
            assert (image["size"], image["steps"]) == ([36, 54], 2)
            phases = dict(image["seconds"])
            assert list(phases) == ["read", "group", "train", "regions", "total", "save"]
            assert phases.pop("total") == pytest.approx(sum(phases.values()), abs=1e-3)
        for phase in segment.PHASES:
            seconds = [image["seconds"][phase] for image in report["images"]]
            assert report["phases"][phase]["sum"] == pytest.approx(sum(seconds))
            assert report["phases"][phase]["median"] == pytest.approx(np.median(seconds))

    def test_whole(self, report: dict[str, Any]) -> None:
        assert report["images_per_second"] == pytest.approx(2 / report["seconds"])
        assert report["seconds"] >= report["phases"]["total"]["sum"]
        assert report["warm_up_seconds"] > 0
        assert report["peak_memory_bytes"] > 50e6
        assert report["peak_gpu_memory_bytes"] is None
        assert report["settings"]["config"]["device"] == "cpu"

    def test_scores_are_those_of_what_segment_writes(self, report: dict[str, Any], bsds: Path, tmp_path: Path) -> None:
        images = find_images([str(bsds / "images" / "val")]).images
        from dynamicseg.segmenter import Segmenter

        work = SegmentWork(tmp_path, ("png",), None, segmenter=Segmenter(device="cpu", max_steps=2))
        for image in images:
            work.do(image, lambda *_: None)
        expected = evaluate(tmp_path, bsds, "bsds500", ["segment-iou"], split="val")["scores"]["segment-iou"]
        assert report["scores"] == {name: pytest.approx(expected[name]) for name in ("all", "fine", "coarse")}

    def test_table(self, report: dict[str, Any]) -> None:
        console = Console(width=100, file=StringIO())
        console.print(segment.table(report))
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        for word in ("2 images", "preset fast", "regions", "images a second", "coarse", "beforehand"):
            assert word in text
        assert max(map(len, text.splitlines())) <= 100


def test_jobs(bsds: Path) -> None:
    found = segment.run([str(bsds / "images")], jobs=2, max_steps=1)
    assert len(found["images"]) == 2
    assert (found["warm_up_seconds"], found["scores"]) == (None, None)


def test_on_a_gpu_the_pipeline_is_measured(bsds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "Segmenter", StagedSegmenter)
    monkeypatch.setattr("dynamicseg.segment_work.usable_cores", lambda: 2)
    groups: list[int] = []
    train_together = StagedSegmenter.train_together

    def recorded(self: StagedSegmenter, prepared: Any, on_step: Any, on_labels: Any = None) -> Any:
        groups.append(len(prepared))
        return train_together(self, prepared, on_step, on_labels)

    monkeypatch.setattr(StagedSegmenter, "train_together", recorded)
    found = segment.run([str(bsds / "images")], max_steps=1)
    assert sum(groups) == 1 + 2  # one beforehand; what processes did would not be seen here
    assert [Path(image["path"]).name for image in found["images"]] == ["0.jpg", "1.jpg"]
    assert (found["settings"]["jobs"], found["settings"]["threads_of_a_job"]) == (1, 1)
    assert found["warm_up_seconds"] > 0
    assert found["peak_gpu_memory_bytes"] == 0


def test_limit_and_progress(bsds: Path) -> None:
    told: list[str] = []
    found = segment.run([str(bsds / "images")], limit=1, max_steps=1, progress=told.append)
    assert len(found["images"]) == 1
    assert told == ["an image beforehand", "image 1 of 1"]


def test_photos_without_any_input() -> None:
    assert [Path(path).name for path in segment.shipped_photos()] == ["astronaut.png", "chelsea.png", "coffee.png"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("inputs", "arguments", "text"),
        [
            ([], {"limit": 0}, "limit is 0"),
            ([], {"jobs": 0}, "jobs is 0"),
            (["/nowhere.png"], {}, "nowhere.png"),
            ([], {"dataset": "bsds500"}, "name its folder"),
            ([], {"preset": "best"}, "preset"),
        ],
    )
    def test_arguments(self, inputs: list[str], arguments: dict[str, Any], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            segment.run(inputs, **arguments)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_without_a_gpu(self) -> None:
        with pytest.raises(ValueError, match="finds no CUDA GPU here"):
            segment.run(device="cuda")

    def test_an_image_that_fails_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "broken.png").write_bytes(b"not an image")
        with pytest.raises(RuntimeError, match=r"broken\.png"):
            segment.run([str(tmp_path / "broken.png")])
