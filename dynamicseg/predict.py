"""``load(path).predict(image)``: one call for trained models, ONNX files and engines.

As a program, ``python -m dynamicseg.predict MODEL IMAGE... -o OUT`` does the same on a device that has only NumPy,
Pillow and ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg._files import one_line, opened
from dynamicseg._words import counted, did_you_mean
from dynamicseg.inference.tiles import OnTile, predict_tiled
from dynamicseg.io import as_image
from dynamicseg.prediction import Prediction
from dynamicseg.segmentation import describe_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynamicseg.inference.running import RunningModel

_FORMATS = {".safetensors": "safetensors", ".onnx": "onnx", ".engine": "engine"}


class Predictor:
    """A trained model that labels images; made by ``load``.

    Attributes:
        model: the file: ``path``, ``format``, ``bytes``, ``sha256``, ``precision``; ready for JSON.
        runtime: what runs it: ``runtime``, ``provider``, ``device``, ``threads``; ready for JSON.
        description: what the file says of the model: bands, labels, colours, how it was trained and exported.
    """

    def __init__(self, running: RunningModel, model: Mapping[str, Any]) -> None:
        self.running = running
        self.model = model
        self.runtime = running.facts
        self.description = running.contract.description

    def __repr__(self) -> str:
        """Return one line: the file, and what runs it."""
        return f"Predictor({self.model['path']!r}, provider={self.runtime['provider']!r})"

    def predict(
        self, image: object, *, channel_axis: int | None = None, tile: int | None = None, on_tile: OnTile | None = None
    ) -> Prediction:
        """Labels one image.

        Models take bytes: uint8 goes in as it is, uint16 is divided by 257 and rounded, and floats, which have to lie
        in 0..1, are multiplied by 255 and rounded.

        Args:
            image: path, PIL image, or array ``[H, W]`` or ``[H, W, C]`` of uint8, uint16 or float, with as many bands
                as the model was trained on.
            channel_axis: which axis of a 3-D array or file holds the bands; default: the last, or what the file says.
            tile: an image with a longer side goes through in overlapping tiles of so many pixels a side, which gives
                the labels of the whole image and needs less memory. By default memory decides.
            on_tile: called after each tile with how many are done, and of how many.

        Raises:
            ValueError, TypeError: the image is not one, see ``io.as_image``, or not one for this model; or the tile is
                too small.
            MemoryError: the image, or a tile, does not fit into memory.
            OSError: the file cannot be read.
        """
        started = time.perf_counter()
        pixels = as_image(image, channel_axis=channel_axis)
        path = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
        input_file = {} if path is None else describe_input(path, channel_axis)
        contract = self.running.contract
        values = model_input(pixels, contract.bands)
        if tile is not None and (not isinstance(tile, int) or isinstance(tile, bool)):
            raise TypeError(f"tile wants a whole number of pixels, not {tile!r}")
        read = time.perf_counter()
        labels, side = predict_tiled(self.running, values, tile, on_tile)
        ended = time.perf_counter()
        return Prediction(
            labels=_checked(labels, pixels.shape[:2], contract.label_count),
            n_labels=contract.label_count,
            image=pixels,
            colours=contract.palette,
            model=self.model,
            runtime=self.runtime,
            timings={"read": read - started, "predict": ended - read, "total": ended - started},
            tile=side,
            source=path,
            input=input_file,
        )


def load(
    path: str | os.PathLike[str],
    *,
    providers: str | Sequence[str] | None = None,
    threads: int | None = None,
    device: str = "auto",
    backbone: str | os.PathLike[str] | None = None,
) -> Predictor:
    """Loads a model: ``.safetensors`` as ``train`` writes it, or ``.onnx`` or ``.engine`` as ``export`` writes them.

    >>> prediction = load("model.onnx").predict("photo.jpg")
    >>> prediction.labels  # int32 [H, W]

    Trained models and ONNX files are data, and what is wrong with them is found before they are run. An engine is code
    for the GPU, which TensorRT runs without looking: load only engines that you or people you trust have built. One is
    loaded only where its name is given here, never because it lies beside another file.

    Args:
        path: the file; its suffix tells what it is.
        providers: for ONNX files, what ONNX Runtime computes on: one or several of ``"cuda"``, ``"openvino"``,
            ``"cpu"``, ``"tensorrt"``, the first one that works; by default the first of the first three that does.
        threads: on the CPU, >= 1; by default as many as there are cores.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        backbone: of a trained model that sees features of a network in an ONNX file: that file; by default the one of
            its name beside ``path``.

    Raises:
        ValueError: no such kind of file; it is damaged, foreign, or for another version or GPU; or an option is wrong
            or does not suit it.
        OSError: the file cannot be read.
        ImportError: what runs this kind of file is not installed.
        MemoryError: there is too little for an engine, or for the one size of images that an ONNX file takes.
    """
    path = Path(path)
    kind = _format(path)
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise ValueError(f"threads wants a whole number, at least 1, not {threads!r}")
    if providers is not None and kind != "onnx":
        raise ValueError(f"providers are for ONNX files; {path.name} is none: choose a device")
    if backbone is not None and kind != "safetensors":
        raise ValueError(f"{path.name} holds all that it needs: leave the backbone out")
    identity, before = _identity(path, kind)
    running: RunningModel
    if kind == "onnx":
        from dynamicseg.inference.onnx_model import OnnxModel

        names = [providers] if isinstance(providers, str) else providers
        running = OnnxModel.load(path, providers=names, threads=threads, device=device)
    elif kind == "safetensors":
        from dynamicseg.inference.torch_model import TorchModel

        running = TorchModel.load(path, threads=threads, device=device, backbone=backbone)
    else:
        from dynamicseg.inference.engine import EngineModel

        if threads is not None:
            raise ValueError(f"threads are for the CPU; {path.name} runs on a GPU: leave them out")
        running = EngineModel.load(path, device=device)
    if _state(os.stat(path)) != before:
        raise ValueError(one_line(path, "was changed while it was read: load it again"))
    exported = running.contract.description.get("export")
    precision = exported.get("precision") if isinstance(exported, dict) else None
    return Predictor(running, {**identity, "precision": precision or "fp32"})


def model_input(pixels: NDArray[Any], bands: int) -> NDArray[np.uint8]:
    """What a model takes of an image ``[H, W, C]``: uint8 ``[H, W, bands]``; see ``Predictor.predict``.

    Raises:
        ValueError: it has other bands, or floats outside 0..1.
    """
    if pixels.shape[2] != bands:
        raise ValueError(
            f"the image has {counted(pixels.shape[2], 'band')}, the model was trained on {bands}: pass an image like "
            "those that "
            "it was trained on"
        )
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    smallest, largest = float(pixels.min()), float(pixels.max())
    if smallest < 0 or largest > 1:
        raise ValueError(
            f"the image has values from {smallest:g} to {largest:g}; a model takes floats of 0 to 1: scale them as "
            "those of the training images"
        )
    return np.asarray(np.rint(pixels * np.float32(255)), np.uint8)


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in _FORMATS:
        return _FORMATS[suffix]
    hint = did_you_mean(suffix, _FORMATS)
    text = f"its suffix {suffix!r} names no kind of model; known are {', '.join(_FORMATS)}{hint}"
    raise ValueError(one_line(path, text))


def _identity(path: Path, kind: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Which file it is, and in which state, so that what is loaded afterwards is known to be the same."""
    digest, size = hashlib.sha256(), 0
    with opened(path) as file:
        state = _state(os.fstat(file.fileno()))
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return {"path": os.path.abspath(path), "format": kind, "bytes": size, "sha256": digest.hexdigest()}, state


def _state(file: os.stat_result) -> tuple[int, ...]:
    return file.st_ino, file.st_size, file.st_mtime_ns


def _checked(labels: NDArray[np.int32], size: tuple[int, ...], label_count: int) -> NDArray[np.int32]:
    """What a model gave, which may be anything where its file was made by hand."""
    fits = labels.shape == size and labels.dtype == np.int32
    if not fits or labels.min() < 0 or labels.max() >= label_count:
        found = f"labels up to {labels.max()}" if fits else f"{labels.dtype} {labels.shape}"
        raise ValueError(f"the model gave {found}, which its description excludes: export it again")
    return labels


if __name__ == "__main__":
    from dynamicseg.predict_command import main

    sys.exit(main())
