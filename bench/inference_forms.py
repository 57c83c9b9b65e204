"""The forms of a trained model that ``dynamicseg bench inference`` compares, and the images it compares them on.

A ``.safetensors`` file stands for three: PyTorch as it comes (eager, float32, contiguous), what ``dynamicseg.load``
makes of it (channels last), and ``torch.compile``. Every other file is one form, as ``dynamicseg.load`` runs it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from dynamicseg._words import counted, in_one_line
from dynamicseg.inference.contract import ModelContract
from dynamicseg.predict import load, model_input
from dynamicseg.trained_model import TrainedModel

Labels: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.int32]]
"""``[B, H, W, bands]`` uint8 to ``[B, H, W]`` int32."""

EAGER, COMPILED = "eager", "compiled"
_SCALE = np.float32(255)


@dataclass(frozen=True)
class Form:
    """One form of a model, ready to run.

    Attributes:
        name: the file's name, and for PyTorch how it is run.
        path: the file.
        mode: ``EAGER`` or ``COMPILED`` for those; None for what ``dynamicseg.load`` makes of the file.
        labels: runs it.
        runtime: what runs it, ready for JSON.
        float32: whether all of its arithmetic is.
    """

    name: str
    path: Path
    mode: str | None
    labels: Labels
    runtime: Mapping[str, Any]
    contract: ModelContract
    float32: bool


def forms(path: Path, *, threads: int, compile: bool) -> Iterator[Form | tuple[str, str]]:
    """All forms of one file; for one that cannot run here, its name and the reason.

    Raises:
        ValueError, OSError: the file is no model, or cannot be read.
    """
    modes: list[str | None] = [None]
    if path.suffix.lower() == ".safetensors":
        modes = [EAGER, None, *([COMPILED] if compile else [])]
    for mode in modes:
        name = path.name if len(modes) == 1 else f"{path.name}, {mode or 'channels last'}"
        try:
            yield form(path, mode, name=name, threads=threads)
        except (ImportError, ValueError, MemoryError) as error:
            # An engine may be for another machine, which is no reason to leave out the others.
            if isinstance(error, ValueError) and path.suffix.lower() != ".engine":
                raise
            yield name, in_one_line(error)


def form(path: Path, mode: str | None, *, name: str, threads: int) -> Form:
    """One form of a model; see ``Form``."""
    if mode is None:
        predictor = load(path, threads=None if path.suffix.lower() == ".engine" else threads)
        return Form(
            name,
            path,
            mode,
            predictor.running.labels,
            predictor.runtime,
            predictor.running.contract,
            predictor.model["precision"] == "fp32",
        )
    network = TrainedModel.load(path).network
    contract = load(path, threads=threads).running.contract
    run: Callable[..., Any] = network
    if mode == COMPILED:
        torch.compiler.reset()
        run = torch.compile(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    runtime = {"runtime": f"torch {torch.__version__}", "provider": mode, "device": "cpu", "threads": threads}

    def labels(images: NDArray[np.uint8]) -> NDArray[np.int32]:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what the compiler itself uses
            values = torch.from_numpy(images.astype(np.float32) / _SCALE).permute(0, 3, 1, 2)
            if mode == EAGER:
                values = values.contiguous()
            found: NDArray[np.int32] = run(values).argmax(dim=1).to(torch.int32).numpy()
        return found

    return Form(name, path, mode, labels, runtime, contract, True)


def prepared(path: str, mode: str | None, threads: int, images: str, size: list[int], batch: int) -> Callable[[], Any]:
    """For ``timing.peak_memory``: everything but the call that is measured."""
    torch.set_num_threads(threads)
    ready = form(Path(path), mode, name="", threads=threads)
    folder = Path(images) if images else None
    (first, *_) = photos(folder, (size[0], size[1]), ready.contract.bands, count=1)
    stack = np.repeat(first[None], batch, axis=0)
    return lambda: ready.labels(stack)


def photos(folder: Path | None, size: tuple[int, int], bands: int, *, count: int) -> list[NDArray[np.uint8]]:
    """Images ``[H, W, bands]`` at ``size``: of a folder, or those that scikit-image carries, scaled.

    Raises:
        ValueError: the folder holds none, or there are none with so many bands.
        OSError: one cannot be read.
    """
    from PIL import Image

    height, width = size
    if folder is None:
        if bands not in (1, 3):
            raise ValueError(f"the model takes {counted(bands, 'band')}: name a folder of such images with --images")
        import skimage.data

        names = ("astronaut", "chelsea", "coffee")[:count]
        pictures = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
        scaled = [picture.resize((width, height), Image.Resampling.LANCZOS) for picture in pictures]
        return [np.array(one if bands == 3 else one.convert("L")).reshape(height, width, bands) for one in scaled]
    return [_cut(pixels, size) for pixels in _pixels(folder, bands, count)]


def _pixels(folder: Path, bands: int, count: int) -> list[NDArray[np.uint8]]:
    from dynamicseg.inputs import find_images
    from dynamicseg.io import read_image

    found = find_images([str(folder)])
    if not found.images:
        raise ValueError(found.problems[0] if found.problems else f"{folder}: holds no images")
    # Evenly over the folder: neighbours in a drive are nearly the same picture.
    step = max(1, len(found.images) // count)
    return [model_input(read_image(image.path), bands) for image in found.images[::step][:count]]


def _cut(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The middle at ``size``; what is missing repeats the picture, mirrored."""
    missing = [max(0, want - have) for want, have in zip(size, pixels.shape, strict=False)]
    pixels = np.pad(pixels, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
    top, left = ((have - want) // 2 for want, have in zip(size, pixels.shape, strict=False))
    return np.ascontiguousarray(pixels[top : top + size[0], left : left + size[1]])
