"""Videos through a predictor, frame by frame in constant memory, by PyAV.

Colours and labels are steady without any tracking, because one model labels all frames. Sound is left out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg._files import Refusal, one_line, opened, os_error, whole_file
from dynamicseg.io import MAX_PIXELS, write_json, write_label_map
from dynamicseg.segmentation import describe_input, hex_colours, json_ready, versions
from dynamicseg.video_files import video_paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynamicseg.predict import Predictor

_QUALITY = "20"  # constant rate factor of x264: hardly to be told from the original
_ANY_RATE = Fraction(25)  # where a file has none


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video.

    Attributes:
        pixels: uint8 ``[H, W, 3]``, or ``[H, W]`` where grey was asked for, upright.
        time: when it is shown, in units of ``time_base`` seconds; None where the file does not say.
        time_base: see ``time``.
        rate: frames a second, on average.
    """

    pixels: NDArray[np.uint8]
    time: int | None
    time_base: Fraction
    rate: Fraction


def predict_video(
    predictor: Predictor,
    path: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    stem: str,
    formats: Sequence[str] = ("overlay", "json"),
    *,
    tile: int | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Labels every frame of a video, and writes what is asked for; each file appears whole or not at all.

    Args:
        predictor: for images of three bands, or of one, which gets the frames in grey.
        path: the video.
        directory: the output folder.
        stem: see ``segmentation.output_paths``.
        formats: any of ``overlay`` (``<stem>_overlay.mp4``, H.264, with the frame rate of the input), ``png`` (the
            folder ``<stem>_labels`` with a label map for each frame) and ``json``.
        tile: see ``Predictor.predict``.
        on_frame: called after each frame with how many are done.

    Returns:
        What ``<stem>.json`` holds: model, runtime, frame rate, frames, areas over all of them, timings.

    Raises:
        ValueError: the file is no video or is damaged, the model wants other bands, or a format is unknown.
        OSError: it cannot be read, or the folder cannot be written to.
        ImportError: PyAV is not installed.
    """
    av = import_av()
    started = time.perf_counter()
    paths = video_paths(directory, stem, formats)
    if "json" in paths:
        paths["json"].unlink(missing_ok=True)
    bands = predictor.running.contract.bands
    areas = np.zeros(predictor.running.contract.label_count, np.int64)
    count, seconds, rate, size = 0, 0.0, _ANY_RATE, (0, 0)
    with ExitStack() as writers:
        overlay = writers.enter_context(_overlay_video(av, paths["overlay"])) if "overlay" in paths else None
        folder = writers.enter_context(_whole_folder(paths["png"])) if "png" in paths else None
        for frame in read_frames(path, grey=bands == 1):
            prediction = predictor.predict(frame.pixels, tile=tile)
            if overlay is not None:
                overlay.write(prediction.overlay(), frame)
            if folder is not None:
                write_label_map(folder / f"{count:06}.png", prediction.labels, prediction.palette)
            areas += prediction.areas()
            seconds += prediction.timings["predict"]
            rate, size, count = frame.rate, frame.pixels.shape[:2], count + 1
            if on_frame is not None:
                on_frame(count)
    report = json_ready(
        {
            "source": os.fspath(path),
            "input": describe_input(path, None),
            "size": {"height": size[0], "width": size[1], "channels": 1 if bands == 1 else 3},
            "frames": count,
            "frames_per_second": float(rate),
            "n_labels": len(areas),
            "areas": areas,
            "colours": hex_colours(predictor.running.contract.palette),
            "model": predictor.model,
            "runtime": predictor.runtime,
            "timings": {"predict": seconds, "total": time.perf_counter() - started},
            "versions": versions() | {"av": av.__version__},
        }
    )
    assert isinstance(report, dict)
    if "json" in paths:
        write_json(paths["json"], report)
    return report


def import_av() -> Any:
    """PyAV, or an ImportError that says how to get it."""
    try:
        import av
    except ImportError as error:
        raise ImportError(f"videos need PyAV ({error}): pip install 'dynamicseg[video]'") from None
    return av


def read_frames(path: str | os.PathLike[str], *, grey: bool = False) -> Iterator[Frame]:
    """The frames of a video, one at a time; whatever the number of frames, only a few are in memory.

    Raises:
        ValueError: no video, damaged, without a frame, or its frames have not all the same size.
        OSError: it cannot be read.
    """
    av = import_av()
    with opened(Path(path)) as file, contextlib.closing(av.open(file, metadata_errors="replace")) as container:
        if not container.streams.video:
            raise Refusal("is no video: it has no pictures")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if stream.width * stream.height > MAX_PIXELS:
            raise Refusal(f"is too large ({stream.width} x {stream.height} pixels; the limit is {MAX_PIXELS})")
        rate, size = stream.average_rate or _ANY_RATE, None
        for decoded in container.decode(stream):
            if size is not None and (decoded.width, decoded.height) != size:
                text = f"{size[0]}x{size[1]} and {decoded.width}x{decoded.height}"
                raise Refusal(f"has frames of different sizes, {text}: convert it to one size first")
            size = decoded.width, decoded.height
            pixels = decoded.to_ndarray(format="gray" if grey else "rgb24")
            turns = round(getattr(decoded, "rotation", 0) / 90) % 4  # as a phone is held; counter-clockwise
            yield Frame(np.ascontiguousarray(np.rot90(pixels, turns)), decoded.pts, stream.time_base, rate)
        if size is None:
            raise Refusal("is damaged or cut short: it holds no frame")


class _OverlayVideo:
    """Frames into an H.264 file, each at the time of the frame that it belongs to."""

    def __init__(self, av: Any, path: Path) -> None:
        self._av = av
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: Any = None
        self._last: int | None = None

    def write(self, picture: NDArray[np.uint8], frame: Frame) -> None:
        """``picture`` is uint8 ``[H, W, 3]``."""
        height, width = (size + size % 2 for size in picture.shape[:2])  # H.264 wants even numbers
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=frame.rate, options={"crf": _QUALITY})
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.codec_context.time_base = frame.time_base
        missing = [(0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0)]
        shown = self._av.VideoFrame.from_ndarray(np.pad(picture, missing, mode="edge"), format="rgb24")
        shown.time_base = frame.time_base
        step = max(1, round(1 / (frame.rate * frame.time_base)))
        following = 0 if self._last is None else self._last + step
        # Times that do not grow, or that are missing, would be refused by the file format.
        usable = frame.time is not None and (self._last is None or frame.time > self._last)
        shown.pts = self._last = frame.time if usable else following
        self._container.mux(self._stream.encode(shown))

    def close(self) -> None:
        """Writes what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()


@contextmanager
def _overlay_video(av: Any, path: Path) -> Iterator[_OverlayVideo]:
    with whole_file(path) as temporary:
        video = _OverlayVideo(av, temporary)
        try:
            yield video
        except BaseException:
            with contextlib.suppress(Exception):  # the file is removed; what counts is why
                video.close()
            raise
        try:
            video.close()
        except av.FFmpegError as error:
            raise OSError(one_line(path, f"cannot be written: {error}")) from None


@contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    """A folder that appears once the block has ended well, in place of the one that was there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=path.parent))
    except OSError as error:
        raise os_error(path.parent, "cannot be written to", error) from error
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.is_dir():
            shutil.rmtree(path)
        temporary.rename(path)
    except OSError as error:
        raise os_error(path, "cannot be written", error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    """The system tells it only when it is set."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
