"""``segment`` of a folder on a GPU: everything that one image after another promises. Most of it needs no GPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import tifffile
import torch
from PIL import Image
from staged import StagedSegmenter
from torch import Tensor

from dynamicseg import gpu_pipeline, segment_work
from dynamicseg.batch import Batch
from dynamicseg.gpu_training import GpuTrainer
from dynamicseg.inputs import InputImage, find_images
from dynamicseg.segment_work import SegmentWork, default_jobs
from dynamicseg.segmentation import output_paths
from dynamicseg.segmenter import Segmenter
from dynamicseg.trainer import Trained
from dynamicseg.workers import Outcome

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])


def save(path: Path, shift: int = 0, *, upright: bool = False) -> Path:
    image = np.roll(PHOTO, shift, axis=1)
    Image.fromarray(image.swapaxes(0, 1) if upright else image).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with five photos of two sizes."""
    folder = tmp_path / "in"
    folder.mkdir()
    for k, name in enumerate("abcde"):
        save(folder / f"{name}.png", 9 * k, upright=name in "be")
    return folder


def segmenter_on(device: torch.device, **options: Any) -> Segmenter:
    return Segmenter(device="cuda", **options) if device.type == "cuda" else StagedSegmenter(**options)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """The shapes of each group that is trained on; the first is not before three images are ready."""
    found: list[list[tuple[int, ...]]] = []
    prepared: list[object] = []
    ready, train_together = gpu_pipeline._Ready, Segmenter.train_together

    def counted(*arguments: Any) -> Any:
        prepared.append(arguments)
        return ready(*arguments)

    def recorded(self: Segmenter, images: Any, on_step: Any, on_labels: Any = None) -> Any:
        if not found:
            wait_until(lambda: len(prepared) >= 3)
        found.append([one.values.shape for one in images])
        return train_together(self, images, on_step, on_labels)

    monkeypatch.setattr(gpu_pipeline, "_Ready", counted)
    monkeypatch.setattr(Segmenter, "train_together", recorded)
    return found


def test_results_are_those_of_one_image_after_another(
    device: torch.device,
    photos: Path,
    tmp_path: Path,
    groups: list[list[tuple[int, ...]]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    tifffile.imwrite(photos / "huge.tif", PHOTO.astype(np.float32) * 1e36, photometric="rgb")
    (photos / "bad.png").write_text("hello")
    segmenter = segmenter_on(device, max_steps=3)
    work = SegmentWork(tmp_path / "out", ("png", "json"), None, 2, segmenter=segmenter)
    assert Batch(work, verbose=True).run(find_images([str(photos), str(tmp_path / "no.png")])) == 1
    text = capfd.readouterr().err
    assert "Traceback" not in text
    failed = [line for line in text.splitlines() if line.startswith("dynamicseg: ")]
    assert [line.split(": ")[1] for line in failed] == [
        str(tmp_path / "no.png"),
        str(photos / "bad.png"),
        str(photos / "huge.tif"),
    ]
    assert "the loss is" in failed[2]
    assert text.count(" labels, 3 steps, ") == 5
    assert names_in(tmp_path / "out") == sorted(
        f"{name}{tail}" for name in "abcde" for tail in (".json", "_labels.png")
    )
    for shapes in groups:
        assert len(set(shapes)) == 1
        assert len(shapes) in (1, 2, 4, 8)
    assert max(map(len, groups)) > 1

    alone = SegmentWork(tmp_path / "alone", ("png", "json"), None, segmenter=segmenter_on(device, max_steps=3))
    for image in find_images([str(photos / "[a-e].png")]).images:
        assert not alone.do(image, lambda *_: None).failed
        one, other = (output_paths(work.output, image.stem, ("png", "json")) for work in (alone, work))
        assert one["png"].read_bytes() == other["png"].read_bytes()
        of_one, of_other = (json.loads(paths["json"].read_text()) for paths in (one, other))
        for key in ("history", "config", "input", "stopped", "trained_size", "areas"):
            assert of_one[key] == of_other[key]
        timings = of_other["timings"]
        assert set(timings) == {"read", "group", "train", "regions", "total"}
        assert timings.pop("total") == pytest.approx(sum(timings.values()))

    (tmp_path / "out" / "c.json").unlink()
    assert Batch(work, resume=True, verbose=True).run(find_images([str(photos / "[a-e].png")])) == 0
    assert capfd.readouterr().err.count("done before") == 4


def test_what_does_not_fit_together_is_trained_one_by_one(
    photos: Path, tmp_path: Path, groups: list[list[tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(photos / "deadly.png")
    Image.fromarray(PHOTO[:20]).save(photos / "large.png")
    train_together = GpuTrainer.train_together

    def too_small(self: GpuTrainer, images: Sequence[Tensor], *arguments: Any, **options: Any) -> list[Trained]:
        if len(images) > 1 or images[0].shape[2] == 20:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train_together(self, images, *arguments, **options)

    monkeypatch.setattr(GpuTrainer, "train_together", too_small)
    monkeypatch.setattr(gpu_pipeline, "_UNDER_WAY", 3)
    begun: list[InputImage] = []

    def images() -> Iterator[InputImage]:
        for image in find_images([str(photos)]).images:
            begun.append(image)
            yield image

    shown: list[tuple[str, int, str]] = []
    work = SegmentWork(tmp_path / "out", ("png",), None, 2, segmenter=StagedSegmenter(max_steps=2))
    outcomes: list[Outcome] = []
    for outcome in work.outcomes(images(), lambda image, *told: shown.append((image.stem, *told))):
        assert len(begun) - len(outcomes) <= work.jobs + 3
        outcomes.append(outcome)
    failed = {outcome.image.stem: outcome.text for outcome in outcomes if outcome.failed}
    assert len(outcomes) == 7
    assert sorted(failed) == ["deadly", "large"]
    assert failed["deadly"].startswith(f"{photos / 'deadly.png'}: the process that segmented it was killed")
    assert failed["large"].startswith(f"{photos / 'large.png'}: training on 57x20 pixels takes about ")
    assert "--max-side" in failed["large"]
    assert max(map(len, groups)) > 1  # it was tried
    for name in "abcde":
        assert [told[1] for told in shown if told[0] == name and "loss" in told[2]] == [1, 2]


def interrupt_all(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does


@pytest.mark.parametrize(("end", "status"), [(interrupt_all, 130), (subprocess.Popen.terminate, 143)])
def test_an_interrupted_run_leaves_neither_half_written_files_nor_processes(
    photos: Path, tmp_path: Path, end: Callable[[subprocess.Popen[str]], None], status: int
) -> None:
    for name in "bcde":
        (photos / f"{name}.png").unlink()
    Image.fromarray(np.tile(PHOTO, (4, 4, 1))).save(photos / "large.png")
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("staged.py"), photos, tmp_path / "out", "40"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith(f"{photos / 'a.png'}: ")
    end(process)
    _, stderr = process.communicate(timeout=100)  # ends when no process has stderr open any more
    assert process.returncode == status
    assert names_in(tmp_path / "out") == ["a.json", "a_labels.png"]
    assert "Traceback" not in stderr
    assert ("interrupted with 1 of 2 images done" in stderr) == (status == 130)


def test_one_image_needs_no_process(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_pipeline, "in_stages", None)
    work = SegmentWork(tmp_path / "out", ("png",), None, 8, segmenter=StagedSegmenter(max_steps=1))
    outcomes = list(work.outcomes(find_images([str(photos / "a.png")]).images, lambda *_: None))
    assert [(outcome.image.stem, outcome.failed) for outcome in outcomes] == [("a", False)]


@pytest.mark.parametrize(("cores", "jobs"), [(1, 1), (2, 1), (8, 7), (64, 16)])
def test_a_process_for_each_core_but_one(cores: int, jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_work, "usable_cores", lambda: cores)
    assert default_jobs(StagedSegmenter()) == jobs
    assert default_jobs(Segmenter(device="cpu")) == 1


def pipeline(**options: Any) -> gpu_pipeline._Pipeline:
    """With six images that are ready, of three, one and two of a size."""
    segmenter = StagedSegmenter(preset="paper", **options)
    work = SegmentWork(Path("out"), ("png",), None, segmenter=segmenter)
    found = gpu_pipeline._Pipeline(iter([InputImage(Path("next.png"), "next")]), work, lambda *_: None)
    for k, rows in enumerate((8, 8, 9, 8, 7, 7)):
        prepared = segmenter.prepare(PHOTO[:rows])
        found._ready.append(gpu_pipeline._Ready(InputImage(Path(f"{k}.png"), str(k)), prepared))
    return found


def test_images_of_one_size_go_together_as_far_as_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    stems = [one.image.stem for one in pipeline()._next_group()]
    assert stems == ["0", "1"]  # not three: groups are powers of two
    assert [one.image.stem for one in pipeline(time_budget=9.0)._next_group()] == ["0"]
    for free, count in ((1, 1), (2, 2), (1000, 2)):
        one = 8 * 57 * 100 * 4 * 22
        found = pipeline()
        monkeypatch.setattr("dynamicseg.training_memory.available_memory", lambda free=free, one=one: free * one)
        assert len(found._next_group()) == count
        monkeypatch.undo()


def test_an_image_whose_loss_is_not_finite_takes_no_other_with_it() -> None:
    found = pipeline(max_steps=2)
    poisoned = found._work.segmenter.prepare(PHOTO[:8].astype(np.float32) * 1e36)
    group = [*found._ready[:2], gpu_pipeline._Ready(InputImage(Path("huge.tif"), "huge"), poisoned)]
    first, second, third = found._train(group)
    for one, trained in zip(group, (first, second), strict=False):
        assert isinstance(trained, gpu_pipeline._Trained)
        alone = found._work.segmenter.train(one.prepared)
        assert np.array_equal(trained.learned.labels, alone.labels)
    assert isinstance(third, Outcome)
    assert third.failed
    assert third.text.startswith("huge.tif: the loss is ")


def test_no_image_is_begun_while_much_memory_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pipeline()
    nbytes = sum(one.nbytes for one in found._ready)
    assert nbytes == (8 * 3 + 9 + 7 * 2) * 57 * 47
    monkeypatch.setattr(gpu_pipeline, "_WAITING_BYTES", nbytes - 1)
    assert found._next_image() is None
    monkeypatch.setattr(gpu_pipeline, "_WAITING_BYTES", nbytes)
    assert found._next_image() == InputImage(Path("next.png"), "next")


def test_what_waits_is_counted_with_all_its_bands() -> None:
    segmenter = StagedSegmenter(preset="paper", max_steps=1)
    prepared = segmenter.prepare(np.zeros((8, 9, 200), np.uint8))
    assert gpu_pipeline._Ready(InputImage(Path("many.tif"), "many"), prepared).nbytes >= 8 * 9 * 200 * 9


def test_a_gpu_that_is_out_of_order_fails_each_image_and_not_the_run(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nsee above")

    monkeypatch.setattr(gpu_pipeline, "images_that_fit", broken)
    monkeypatch.setattr(GpuTrainer, "train_together", broken)
    work = SegmentWork(tmp_path / "out", ("png",), None, 1, segmenter=StagedSegmenter(preset="paper", max_steps=1))
    images = find_images([str(photos / "[ab].png")]).images
    outcomes = list(work.outcomes(images, lambda *_: None))
    assert sorted(outcome.image.stem for outcome in outcomes) == ["a", "b"]
    for outcome in outcomes:
        assert outcome.failed
        assert outcome.text.endswith(": RuntimeError: CUDA error: an illegal memory access was encountered see above")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_processes_beside_a_gpu_do_not_touch_it() -> None:
    segmenter = StagedSegmenter(max_steps=2)
    prepared = segmenter.prepare(PHOTO)
    learned = segmenter.train(prepared)
    segmenter.config = segmenter.config.model_copy(update={"device": "cuda"})  # where nothing can be done
    again = segmenter.prepare(PHOTO, available=10**10)
    expected = StagedSegmenter(max_steps=2).segment(PHOTO)
    assert np.array_equal(segmenter.finish(again, learned).labels, expected.labels)
    with pytest.raises(MemoryError, match=r"more than the 0\.0 GB that are free on cuda"):
        segmenter.prepare(PHOTO, available=10**4)
