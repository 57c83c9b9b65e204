"""``segment --jobs``: several images at a time, with everything that one at a time promises."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from failing import FullSegmenter, KillingSegmenter
from PIL import Image
from terminal import shown_on_terminal

from dynamicseg.batch import Batch
from dynamicseg.inputs import InputImage, find_images
from dynamicseg.segment_work import SegmentWork
from dynamicseg.segmenter import Segmenter
from dynamicseg.workers import Outcome, Worker, in_processes

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])
COMMAND = [str(Path(sys.executable).with_name("dynamicseg")), "segment"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three photos."""
    folder = tmp_path / "in"
    folder.mkdir()
    for k, name in enumerate("abc"):
        Image.fromarray(np.roll(PHOTO, 9 * k, axis=1)).save(folder / f"{name}.png")
    return folder


def run(*arguments: object, threads: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=200, env=environment
    )


def outputs(stem: str) -> list[str]:
    return [f"{stem}.json", f"{stem}_labels.png", f"{stem}_overlay.png"]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_results_are_those_of_one_at_a_time_with_as_many_threads(photos: Path, tmp_path: Path) -> None:
    (photos / "bad.png").write_text("hello")
    arguments = [photos, tmp_path / "no.png", "--max-steps", 2, "-v", "-o"]
    two = run(*arguments, tmp_path / "two", "--jobs", 2, threads=2)
    one = run(*arguments, tmp_path / "one", "--jobs", 1, threads=1)
    assert two.returncode == one.returncode == 1, two.stderr
    assert (
        names_in(tmp_path / "two")
        == names_in(tmp_path / "one")
        == sorted(file for name in "abc" for file in outputs(name))
    )
    for name in "abc":
        for of_one, of_two in ((tmp_path / "one" / file, tmp_path / "two" / file) for file in outputs(name)[1:]):
            assert of_one.read_bytes() == of_two.read_bytes()
        assert json.loads((tmp_path / "two" / f"{name}.json").read_text())["threads"] == 1
    assert errors(two.stderr) == errors(one.stderr)
    assert [line.split(": ")[1] for line in errors(two.stderr)] == [str(tmp_path / "no.png"), str(photos / "bad.png")]
    assert two.stderr.count(" labels, 2 steps, ") == 3
    assert "3 images in" in two.stderr
    again = run(*arguments, tmp_path / "two", "--jobs", 2, "--resume", threads=2)
    assert again.stderr.count("done before") == 3
    assert errors(again.stderr) == errors(one.stderr)


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("dynamicseg: ")]


def test_a_killed_process_is_one_line_and_the_others_go_on(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("deadly.png", "deadly_too.png"):
        Image.fromarray(PHOTO).save(photos / name)
    work = SegmentWork(tmp_path / "out", ("png", "json"), None, 2, segmenter=KillingSegmenter(max_steps=1))
    batch = Batch(work)
    assert batch.run(find_images([str(photos)])) == 1
    assert names_in(tmp_path / "out") == sorted(f"{name}{tail}" for name in "abc" for tail in (".json", "_labels.png"))
    first, second = capfd.readouterr().err.splitlines()
    for line, name in ((first, "deadly.png"), (second, "deadly_too.png")):
        assert line.startswith(f"dynamicseg: {photos / name}: the process that segmented it was killed")
        assert "fewer --jobs" in line


def test_a_process_killed_between_two_images_costs_none(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class BrokenBeforeTheSecond(ProcessPoolExecutor):
        def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
            calls.append(self)
            if len(calls) == 2:
                raise BrokenProcessPool
            return super().submit(*arguments, **options)

    monkeypatch.setattr("dynamicseg.workers.ProcessPoolExecutor", BrokenBeforeTheSecond)
    work = SegmentWork(tmp_path / "out", ("png",), None, segmenter=Segmenter(max_steps=1))
    images = [InputImage(photos / f"{name}.png", name) for name in "ab"]
    outcomes = list(in_processes(images, work, threads=1, show=lambda *_: None))
    assert [(outcome.image.stem, outcome.failed) for outcome in outcomes] == [("a", False), ("b", False)]
    assert calls[0] is calls[1] is not calls[2]


def test_what_does_not_fit_may_fit_with_fewer_jobs(photos: Path, tmp_path: Path) -> None:
    work = SegmentWork(tmp_path / "out", ("png",), None, 3, segmenter=FullSegmenter())
    assert work.do(InputImage(photos / "a.png", "a"), lambda *_: None) == Outcome(
        InputImage(photos / "a.png", "a"), True, f"{photos / 'a.png'}: too large; or run fewer than 3 --jobs"
    )


def interrupt(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)


def interrupt_all(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does


def terminate(process: subprocess.Popen[str]) -> None:
    process.terminate()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()


@pytest.mark.parametrize(
    ("end", "status"), [(interrupt, 130), (interrupt_all, 130), (terminate, 143), (kill, -signal.SIGKILL)]
)
def test_an_interrupted_run_leaves_neither_half_written_files_nor_processes(
    photos: Path, tmp_path: Path, end: Callable[[subprocess.Popen[str]], None], status: int
) -> None:
    Image.fromarray(np.tile(PHOTO, (6, 6, 1))).save(photos / "large.png")
    process = subprocess.Popen(
        [*COMMAND, "a.png", "large.png", "-o", "out", "--preset", "paper", "--max-steps", "40", "--jobs", "2"],
        cwd=photos,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until((photos / "out" / "a.json").exists)
    time.sleep(0.3)
    end(process)
    _, stderr = process.communicate(timeout=60)  # ends when no process has stderr open any more
    assert process.returncode == status
    assert names_in(photos / "out") == outputs("a")
    assert "Traceback" not in stderr
    assert ("interrupted with 1 of 2 images done" in stderr) == (status == 130)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_interrupt_while_processes_begin_is_as_quiet(photos: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, ".", "-o", "out", "--jobs", "3"],
        cwd=photos,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: len(children.read_text().split()) >= 2)  # a process that keeps count for the others, and one
    interrupt_all(process)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, len(stderr.splitlines())) == (130, 1), stderr
    assert "interrupted with 0 of 3 images done" in stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_process_begins_waits_until_it_has_begun(number: signal.Signals) -> None:
    # Another thread, as numerical libraries have them, takes a signal that the main thread has blocked.
    program = f"""
import os, signal, sys, threading, time
from dynamicseg.workers import _begun_without_interrupts
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
try:
    with _begun_without_interrupts():
        os.kill(os.getpid(), {int(number)})
        time.sleep(0.1)
        print("begun")
    print("not reached")
except (KeyboardInterrupt, SystemExit) as error:
    print(type(error).__name__, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    run = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60)
    raised = "KeyboardInterrupt" if number == signal.SIGINT else "SystemExit"
    assert run.stdout.split("\n") == ["begun", f"{raised} True", ""], run.stderr


def test_each_image_has_its_progress_on_a_terminal(photos: Path) -> None:
    # Steps enough that the screen, which is drawn ten times a second, shows some of them.
    text = shown_on_terminal([*COMMAND, ".", "-o", "out", "--max-steps", "150", "--jobs", "2"], photos)
    for words in ("a.png", "b.png", "labels, loss", "/150", "3 images in out"):
        assert words in text


def test_what_is_told_at_the_very_end_is_not_of_the_next_image() -> None:
    worker: Worker[Outcome] = Worker(threads=1)
    one, next_one = (InputImage(Path(f"{name}.png"), name) for name in "ab")
    worker.image, worker.future = one, Future()
    worker._executor._initargs[1].send((3, "saving"))
    worker.future.set_result(Outcome(one, False, "done"))
    assert worker.outcome() == Outcome(one, False, "done")
    worker.image = next_one
    shown: list[object] = []
    worker.pass_on(lambda *told: shown.append(told))
    worker.close()
    assert shown == []
