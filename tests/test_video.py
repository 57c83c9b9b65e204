"""Videos: every frame labelled by one model, in constant memory, with the frame rate of the input."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx_models
import pytest
import skimage.data
from numpy.typing import NDArray

from dynamicseg import video
from dynamicseg.io import read_label_map
from dynamicseg.predict import Predictor, load
from dynamicseg.video import predict_video, read_frames
from dynamicseg.video_files import is_video, video_paths

PHOTO = np.ascontiguousarray(skimage.data.astronaut()[:128:2, :162:2])  # of odd width


def pictures(count: int = 6) -> list[NDArray[np.uint8]]:
    return [np.ascontiguousarray(np.roll(PHOTO, 5 * k, axis=1)) for k in range(count)]


def write_video(
    path: Path, frames: list[NDArray[np.uint8]], *, rate: Fraction | int = 12, times: list[int] | None = None
) -> Path:
    """Without loss; ``times`` in units of 1/600 second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264rgb", rate=rate, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = frames[0].shape[0], frames[0].shape[1], "rgb24"
        stream.codec_context.time_base = Fraction(1, 600)
        for k, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = Fraction(1, 600)
            frame.pts = int(k * 600 / rate) if times is None else times[k]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return load(onnx_models.save(tmp_path / "m.onnx"))


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_video(tmp_path / "film.mkv", pictures())


def test_every_frame_has_its_labels_and_the_same_colours(predictor: Predictor, film: Path, tmp_path: Path) -> None:
    told: list[int] = []
    report = predict_video(
        predictor, film, tmp_path / "out", "a/film", ("png", "overlay", "json"), on_frame=told.append
    )
    assert sorted(path.name for path in (tmp_path / "out" / "a").iterdir()) == [
        *("film.json", "film_labels", "film_overlay.mp4"),
    ]
    assert told == [1, 2, 3, 4, 5, 6]
    labels = [read_label_map(path) for path in sorted((tmp_path / "out" / "a" / "film_labels").iterdir())]
    for found, picture in zip(labels, pictures(), strict=True):
        np.testing.assert_array_equal(found, onnx_models.expected_labels(picture))
    assert json.loads((tmp_path / "out" / "a" / "film.json").read_text()) == report
    assert report["frames"] == 6
    assert report["frames_per_second"] == 12
    assert report["areas"] == np.bincount(np.concatenate(labels).ravel(), minlength=5).tolist()
    assert report["model"]["format"] == "onnx"
    overlays = list(read_frames(tmp_path / "out" / "a" / "film_overlay.mp4"))
    assert overlays[0].pixels.shape == (64, 82, 3)  # H.264 wants even numbers
    for shown, picture in zip(overlays, pictures(), strict=True):
        expected = predictor.predict(picture).overlay().astype(int)
        assert np.abs(shown.pixels[:, :81] - expected).mean() < 12  # it is compressed


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), 25])
def test_the_frame_rate_is_kept(rate: Any, predictor: Predictor, tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mkv", pictures(30), rate=rate)
    predict_video(predictor, film, tmp_path / "out", "film", ("overlay",))
    frames = list(read_frames(tmp_path / "out" / "film_overlay.mp4"))
    assert len(frames) == 30
    assert frames[0].rate == pytest.approx(float(rate), rel=0.01)


def test_uneven_times_are_kept(predictor: Predictor, tmp_path: Path) -> None:
    times = [0, 50, 300, 350, 900, 950]
    film = write_video(tmp_path / "film.mkv", pictures(), times=times)
    predict_video(predictor, film, tmp_path / "out", "film", ("overlay",))
    found = [float((frame.time or 0) * frame.time_base) for frame in read_frames(tmp_path / "out" / "film_overlay.mp4")]
    assert found == pytest.approx([time / 600 for time in times], abs=0.01)


def test_a_model_of_one_band_sees_grey(tmp_path: Path, film: Path) -> None:
    predictor = load(onnx_models.save(tmp_path / "grey.onnx", bands=1))
    report = predict_video(predictor, film, tmp_path / "out", "film", ("json",))
    assert (report["frames"], report["size"]["channels"]) == (6, 1)


def test_frames_are_not_kept(predictor: Predictor, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = most = 0

    class Counted:
        def __init__(self, frame: video.Frame) -> None:
            nonlocal alive, most
            self.pixels, self.time, self.time_base, self.rate = frame.pixels, frame.time, frame.time_base, frame.rate
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def counted(*arguments: Any, **options: Any) -> Iterator[Any]:
        return (Counted(frame) for frame in read_frames(*arguments, **options))

    monkeypatch.setattr(video, "read_frames", counted)
    predict_video(predictor, film, tmp_path / "out", "film", ("overlay", "png"))
    assert most <= 2


@pytest.mark.parametrize("kind", ["text", "cut", "empty", "photo", "folder", "missing"])
def test_what_is_no_video_is_one_line_and_leaves_nothing(
    kind: str, predictor: Predictor, film: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.mp4"
    if kind == "text":
        path.write_text("hello " * 100)
    elif kind == "cut":
        path.write_bytes(film.read_bytes()[:200])
    elif kind == "empty":
        path.touch()
    elif kind == "photo":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    elif kind == "folder":
        path.mkdir()
    with pytest.raises((ValueError, OSError), match=r"bad\.mp4: ") as caught:
        predict_video(predictor, path, tmp_path / "out", "bad", ("overlay", "png", "json"))
    assert len(str(caught.value).splitlines()) == 1
    assert [item for item in (tmp_path / "out").rglob("*") if item.exists()] == []


def test_an_interrupt_leaves_nothing_half_written(predictor: Predictor, film: Path, tmp_path: Path) -> None:
    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    predict_video(predictor, film, tmp_path / "out", "film", ("overlay", "png", "json"))
    before = (tmp_path / "out" / "film_overlay.mp4").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        predict_video(predictor, film, tmp_path / "out", "film", ("overlay", "png", "json"), on_frame=stop)
    # What an earlier run wrote is still there, but the JSON, which says that all belongs together, is not.
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["film_labels", "film_overlay.mp4"]
    assert (tmp_path / "out" / "film_overlay.mp4").read_bytes() == before
    assert len(list((tmp_path / "out" / "film_labels").iterdir())) == 6


def test_a_shorter_video_leaves_no_frames_of_the_longer_one(predictor: Predictor, tmp_path: Path) -> None:
    for count in (5, 2):
        film = write_video(tmp_path / "film.mkv", pictures(count))
        predict_video(predictor, film, tmp_path / "out", "film", ("png",))
        names = sorted(path.name for path in (tmp_path / "out" / "film_labels").iterdir())
        assert names == [f"{k:06}.png" for k in range(count)]


def test_without_pyav_it_is_said_how_to_get_it(
    predictor: Predictor, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"videos need PyAV .*: pip install 'dynamicseg\[video\]'"):
        predict_video(predictor, film, tmp_path / "out", "film")


def test_names() -> None:
    assert is_video("a/b.MP4")
    assert not is_video("a/mp4.png")
    assert list(video_paths("out", "a/x.y", ("json", "overlay")).values()) == [
        Path("out/a/x.y_overlay.mp4"),
        Path("out/a/x.y.json"),
    ]
    with pytest.raises(ValueError, match="videos have no format 'npy': choose from overlay, png, json"):
        video_paths("out", "x", ("npy",))
    with pytest.raises(ValueError, match="inside the output folder"):
        video_paths("out", "../x", ("json",))


def test_a_film_from_a_phone_held_upright_is_turned(predictor: Predictor, tmp_path: Path) -> None:
    film = write_video(tmp_path / "film.mp4", pictures(2))
    data = bytearray(film.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 36  # of the track's header: how the picture is to be turned, here clockwise
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, PHOTO.shape[0] << 16, 0, 1 << 30)
    film.write_bytes(data)
    predict_video(predictor, film, tmp_path / "out", "film", ("png",))
    labels = read_label_map(tmp_path / "out" / "film_labels" / "000000.png")
    np.testing.assert_array_equal(labels, onnx_models.expected_labels(np.rot90(PHOTO, -1)))
