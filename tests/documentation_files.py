"""Small stand-ins for the files that the documentation speaks of: photos, strokes, a data set, a film."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import onnx
import skimage.data
import tifffile
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image
from scipy.io import savemat

HEIGHT, WIDTH = 36, 48


def write_all(folder: Path) -> None:
    """Writes each of them as the pages name it."""
    photos = {name: _photo(name) for name in ("a", "b", "c")}
    for path, name in (("photo.jpg", "a"), ("photos/a.jpg", "a"), ("photos/b.jpg", "b"), ("new/c.jpg", "c")):
        _save(folder / path, photos[name])
    stack = np.concatenate([photos["a"], photos["b"]], axis=2)
    tifffile.imwrite(folder / "stack.tif", np.ascontiguousarray(np.moveaxis(stack, 2, 0)), photometric="minisblack")
    rows, columns = np.indices((HEIGHT, WIDTH))
    for name in ("a", "b"):
        _save(folder / f"drawn/{name}.png", _strokes())
        _save(folder / f"other/{name}.png", (rows // 12 + 3 * (columns // 24)).astype(np.uint8))
        _save(folder / f"valid/{name}.png", np.where(columns < 4, 0, 255).astype(np.uint8))
    _save(folder / "labels/c.png", (columns // 24).astype(np.uint8))
    _data_set(folder, photos)
    _film(folder / "drive.mp4", photos["a"])
    _backbone(folder / "backbone.onnx")
    (folder / "dist").mkdir()


def copy(source: Path, target: Path) -> None:
    """All of them again, for a page of its own."""
    shutil.copytree(source, target)


def _photo(name: str) -> NDArray[np.uint8]:
    whole = getattr(skimage.data, {"a": "chelsea", "b": "coffee", "c": "astronaut"}[name])()
    return np.ascontiguousarray(whole[: 8 * HEIGHT : 8, : 8 * WIDTH : 8])


def _strokes() -> NDArray[np.uint8]:
    strokes = np.full((HEIGHT, WIDTH), 255, np.uint8)
    strokes[16:20, 16:32] = 0
    strokes[2:6, 4:44] = 1
    return strokes


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _data_set(folder: Path, photos: dict[str, NDArray[np.uint8]]) -> None:
    """Two photos in the layout of BSDS500, with two annotators; and their truth as label images."""
    truths = folder / "BSDS500/groundTruth/val"
    truths.mkdir(parents=True)
    columns = np.indices((HEIGHT, WIDTH))[1]
    for stem in ("a", "b"):
        _save(folder / f"BSDS500/images/val/{stem}.jpg", photos[stem])
        cells = np.empty((1, 2), object)
        for number, pieces in enumerate((2, 4)):
            cells[0, number] = {"Segmentation": (1 + columns * pieces // WIDTH).astype(np.uint16)}
        savemat(truths / f"{stem}.mat", {"groundTruth": cells})
        _save(folder / f"truth/{stem}.png", (columns // 24).astype(np.uint8))


def _film(path: Path, pixels: NDArray[np.uint8]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for shift in (0, 2):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(pixels, shift, axis=1)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _backbone(path: Path) -> None:
    """A network whose maps are means over 8x8 and 16x16 pixels."""
    sizes = {"layer2": 8, "layer3": 16}
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["x"], [name], kernel_shape=[size, size], strides=[size, size])
            for name, size in sizes.items()
        ],
        "backbone",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, None, None]) for name in sizes],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
