"""Reading and writing images, label maps and palettes.

Every image is `[H, W, C]`, channels last, of uint8, uint16 or float32. Every error is one line that
starts with the path, says what was found and what to do; every file is written whole or not at all.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg._decode import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    decode,
    decode_numbers,
    plain_pixels,
    refuse_other_axis,
)
from dynamicseg._files import Refusal, one_line, whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as PILImage

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "as_image",
    "display_rgb",
    "label_map_suffix",
    "label_palette",
    "no_data_number",
    "read_image",
    "read_label_map",
    "unit_values",
    "whole_file",
    "write_image",
    "write_json",
    "write_label_map",
]

_PALETTE_LABELS = 256
_GREY_LABELS = 65536

_GOLDEN_ANGLE = np.deg2rad(137.50776405003785)
# Three times the golden angle is 52 degrees, so seven labels share a lightness with clear hues.
# After these 21 the hues come back 7 degrees off, and the next 21 are darker.
_LIGHTNESS_AND_CHROMA = np.array([(0.68, 0.14), (0.84, 0.11), (0.55, 0.14)])
_SERIES, _DARKER, _SERIES_LEVELS = 21, 0.05, 3

_LOW, _HIGH = 2.0, 98.0  # percentiles
_PERCENTILE_SAMPLE = 1 << 20


def read_image(path: str | os.PathLike[str], *, channel_axis: int | None = None) -> NDArray[Any]:
    """Read an image file as `[H, W, C]`, channels last; grey has C = 1.

    The file's contents decide its format, not its suffix: JPEG, PNG, TIFF, BMP, GIF, WebP, AVIF,
    JPEG 2000 or PNM. EXIF orientation is applied and alpha is dropped, colour profiles are
    ignored. Palette, CMYK and YCbCr become RGB, one bit becomes 0 and 255. Of an animation the
    first frame is read. AVIF is decoded to 8 bits.

    The type is as stored: uint8, uint16 or float32. float16, float64 and signed or 32-bit integers
    (TIFF only) become float32, whatever their values; integers that float32 cannot hold exactly
    are refused.

    Args:
        path: the file.
        channel_axis: for a TIFF with three axes, the one that holds the bands. Needed where the
            file does not say so itself, as in a plain stack of pages. Other formats know their
            channels, and refuse any but the last.

    Raises:
        FileNotFoundError, OSError: the file cannot be opened or read; a folder was given.
        ValueError: not an image, damaged, a stack, more than `MAX_PIXELS` pixels (refused before
            decoding), NaN or infinity, or a channel axis where there is none to choose. All are one
            line that starts with the path.
    """
    path = Path(path)
    image = decode(path, channel_axis=channel_axis)
    try:
        _check_image(image)
    except Refusal as refusal:
        raise ValueError(one_line(path, str(refusal))) from None
    return image


def as_image(value: object, *, channel_axis: int | None = None) -> NDArray[Any]:
    """Return any kind of image as `[H, W, C]` of uint8, uint16 or float32.

    Args:
        value: a path, which is read by `read_image`; a PIL image, taken as it is (no EXIF
            orientation, so that the result fits the image that the caller holds); or an array, or
            anything with `__array__`, of shape `[H, W]` or `[H, W, C]` with any C and of type
            uint8, uint16, float16, float32 or float64. Arrays are taken as they are, without a copy
            where possible; only float16 and float64 become float32.
        channel_axis: which axis of three holds the channels: by default the last one of an array,
            and the one that the file declares of a file. Refused for a PIL image, whose are known.

    Raises:
        TypeError: not an image, or of a type that is not in the list.
        ValueError: wrong number of axes, no pixels, NaN, infinity or masked values; for files
            also what `read_image` raises.
    """
    if isinstance(value, (str, os.PathLike)):
        return read_image(value, channel_axis=channel_axis)
    try:
        if _is_pil_image(value):
            refuse_other_axis("is a PIL image", channel_axis)
            image = _pixels_in_memory(value)
        else:
            image = _channels_last(_as_array(value), -1 if channel_axis is None else channel_axis)
        _check_image(image)
    except Refusal as refusal:
        raise ValueError(one_line("image", str(refusal))) from refusal.__cause__
    return image


def _is_pil_image(value: object) -> bool:
    # Nobody can hold a PIL image without having imported the module.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _pixels_in_memory(image: Any) -> NDArray[Any]:
    try:
        return plain_pixels(image)
    except Refusal:
        raise
    except Exception as error:  # a PIL image decodes its file only now, and fails in many ways
        raise Refusal(f"cannot be decoded ({error})") from error


def _as_array(value: object) -> NDArray[Any]:
    wanted = "want a path, a PIL image, or an array [H, W] or [H, W, C]"
    if not hasattr(value, "__array__"):
        raise TypeError(one_line("image", f"is a {type(value).__name__}; {wanted}"))
    try:
        array = np.asanyarray(value)
    except Exception as error:
        text = f"this {type(value).__name__} does not turn into an array ({error}); {wanted}"
        raise TypeError(one_line("image", text)) from error
    if isinstance(array, np.ma.MaskedArray):
        hidden = int(np.count_nonzero(np.ma.getmaskarray(array)))
        if hidden:
            raise Refusal(f"has {hidden} masked values; fill them with .filled() and say where they are with a mask")
    dtype = array.dtype
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return np.asarray(_to_float32(array))
    if dtype.kind == "u" and dtype.itemsize <= 2:
        return np.asarray(array.astype(dtype.newbyteorder("="), copy=False))
    text = f"has dtype {dtype}; want uint8, uint16 or floating point: convert it with .astype(...)"
    raise TypeError(one_line("image", text))


def _to_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # becomes infinity, which the check names
        return array.astype(np.float32, copy=False)


def _channels_last(array: NDArray[Any], channel_axis: int) -> NDArray[Any]:
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3:
        raise Refusal(f"has {array.ndim} axes, shape {array.shape}; want [H, W] or [H, W, C]")
    if not -3 <= channel_axis < 3:
        raise Refusal(f"has no channel axis {channel_axis}: its shape is {array.shape}")
    return np.moveaxis(array, channel_axis, -1)


def _check_image(image: NDArray[Any]) -> None:
    if image.size == 0:
        raise Refusal(f"is empty: its shape is {image.shape}; want at least one pixel and channel")
    if image.dtype.kind != "f":
        return
    finite = np.isfinite(image)
    if not finite.all():
        bad = image.size - int(np.count_nonzero(finite))
        row, column, channel = np.unravel_index(int(np.argmin(finite)), image.shape)
        raise Refusal(
            f"has {bad} of {image.size} values that are NaN or infinite in float32, the first at"
            f" row {row}, column {column}, channel {channel}; replace them (numpy.nan_to_num)"
        )


def unit_values(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return `[H, W, C]` as float32: integers divided by the largest number of their type, floats as they are."""
    values = image.astype(np.float32)
    if image.dtype.kind == "u":
        values /= np.float32(np.iinfo(image.dtype).max)
    return values


def display_rgb(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return what a person should see of an image `[H, W, C]`, as uint8 `[H, W, 3]`.

    One or two channels show the first in grey, more show the first three as red, green and blue.
    uint8 stays as it is. Other types are stretched, each channel on its own, from its 2nd to its
    98th percentile; where these are equal, from minimum to maximum; a constant channel is mid-grey.
    """
    shown = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
    if shown.dtype != np.uint8:
        shown = np.stack([_stretched(shown[..., k]) for k in range(shown.shape[-1])], axis=-1)
    return np.ascontiguousarray(np.broadcast_to(shown, (*shown.shape[:2], 3)))


def _stretched(band: NDArray[Any]) -> NDArray[np.uint8]:
    # Every n-th value is enough for a percentile, and bounds the time on large images.
    sample = band.ravel()[:: 1 + band.size // _PERCENTILE_SAMPLE].astype(np.float64)
    low, high = (float(p) for p in np.percentile(sample, (_LOW, _HIGH)))
    if low == high:
        low, high = float(band.min()), float(band.max())
    if low == high:
        return np.full(band.shape, 128, np.uint8)
    scaled = (np.clip(band.astype(np.float64), low, high) - low) * (255.0 / (high - low))
    return np.asarray(np.rint(scaled), np.uint8)


def label_palette(n: int) -> NDArray[np.uint8]:
    """Return the colours of labels 0 to n-1, as uint8 `[n, 3]`.

    Label k has the same colour whatever n is, in every image. Hues advance by the golden angle and
    lightness takes turns in OKLCH (Ottosson 2020), so that labels next to each other in number look
    different; no colour is near black.
    """
    k = np.arange(n)
    lightness, chroma = _LIGHTNESS_AND_CHROMA[k % len(_LIGHTNESS_AND_CHROMA)].T
    lightness = lightness - _DARKER * (k // _SERIES % _SERIES_LEVELS)
    hue = np.deg2rad(250.0) + k * _GOLDEN_ANGLE
    return _oklab_to_srgb(np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1))


def _oklab_to_srgb(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Convert OKLab `[n, 3]` to 8-bit sRGB; https://bottosson.github.io/posts/oklab/."""
    to_cone_roots = np.array(
        [
            [1.0, 0.3963377774, 0.2158037573],
            [1.0, -0.1055613458, -0.0638541728],
            [1.0, -0.0894841775, -1.2914855480],
        ]
    )
    to_linear_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip((lab @ to_cone_roots.T) ** 3 @ to_linear_rgb.T, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.power(linear, 1 / 2.4) - 0.055)
    return np.asarray(np.rint(encoded * 255.0), np.uint8)


def label_map_suffix(n_labels: int) -> str:
    """Return the suffix of the file that can hold this many labels: `.png`, or `.tif` above 65536.

    `write_label_map` decides by the suffix and the largest label.
    """
    return ".png" if n_labels <= _GREY_LABELS else ".tif"


def no_data_number(n_labels: int) -> int:
    """Return what stands for pixels without data in the file of so many labels: the highest number it can hold."""
    if n_labels < _PALETTE_LABELS:
        return _PALETTE_LABELS - 1
    return _GREY_LABELS - 1 if n_labels < _GREY_LABELS else int(np.iinfo(np.uint32).max)


def write_label_map(
    path: str | os.PathLike[str], labels: NDArray[Any], palette: NDArray[np.uint8] | None = None
) -> None:
    """Write labels `[H, W]`, integers from 0, so that the file holds the label numbers.

    Labels of -1, pixels without data, become `no_data_number`: 255, black, beside up to 255 labels.

    A `.png` is a palette image for labels up to 255, and 16-bit grey for labels up to 65535; a `.tif` is uint32 with
    lossless compression. `palette` holds the colours, uint8 `[n, 3]`, by default those of `label_palette`.

    Raises:
        TypeError: not integers.
        ValueError: not `[H, W]`, empty, labels below -1, labels too large for the suffix, or
            another suffix.
        OSError: the folder cannot be written to.
    """
    path = Path(path)
    largest = _largest_label(path, labels)
    if labels.min() < 0:
        labels = np.where(labels < 0, no_data_number(largest + 1), labels.astype(np.int64))
        palette = label_palette(largest + 1) if palette is None else palette
        palette = np.concatenate([palette, np.zeros((max(0, _PALETTE_LABELS - len(palette)), 3), np.uint8)])
        largest = no_data_number(largest + 1)
    suffix = path.suffix.lower()
    if suffix in {".tif", ".tiff"}:
        import tifffile

        with whole_file(path) as temporary:
            tifffile.imwrite(temporary, labels.astype(np.uint32), compression="zlib")
    elif suffix == ".png" and largest < _GREY_LABELS:
        _write_label_png(path, labels, label_palette(largest + 1) if palette is None else palette)
    else:
        want = label_map_suffix(largest + 1)
        text = f"cannot hold labels up to {largest} with the suffix {suffix!r}; use {want!r}"
        raise ValueError(one_line(path, text))


def _largest_label(path: Path, labels: NDArray[Any]) -> int:
    if labels.dtype.kind not in "iu":
        raise TypeError(one_line(path, f"label map has dtype {labels.dtype}; want integers"))
    if labels.ndim != 2 or labels.size == 0:
        text = f"label map has shape {labels.shape}; want [H, W] with at least one pixel"
        raise ValueError(one_line(path, text))
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < -1 or largest > np.iinfo(np.uint32).max:
        text = f"labels run from {smallest} to {largest}; want 0 to 4294967295, or -1 for no data"
        raise ValueError(one_line(path, text))
    return largest


def _write_label_png(path: Path, labels: NDArray[Any], palette: NDArray[np.uint8]) -> None:
    from PIL import Image

    if labels.max() < _PALETTE_LABELS:
        image = Image.fromarray(np.ascontiguousarray(labels, np.uint8))
        image.putpalette(palette[:_PALETTE_LABELS].tobytes())
    else:
        image = Image.fromarray(np.ascontiguousarray(labels, np.uint16))
    _save_png(path, image)


def read_label_map(path: str | os.PathLike[str]) -> NDArray[np.int32]:
    """Read a label map as int32 `[H, W]`: the numbers in the file, not the colours they show.

    Takes what `write_label_map` writes, and any other palette, grey or bilevel image, or TIFF with
    one band of integers. EXIF orientation is not applied: label maps are data.

    Raises:
        FileNotFoundError, OSError: as `read_image`.
        ValueError: colours, floating point numbers, more than one band, numbers beyond int32, a
            JPEG (which changes numbers), or a damaged file.
    """
    path = Path(path)
    numbers = decode_numbers(path)
    if numbers.dtype.kind not in "biu":
        text = f"holds {numbers.dtype} values; want a label map of integers"
        raise ValueError(one_line(path, text))
    limits = np.iinfo(np.int32)
    if numbers.max() > limits.max or numbers.min() < limits.min:
        raise ValueError(one_line(path, f"holds labels beyond {limits.max}; renumber them"))
    return np.ascontiguousarray(numbers, np.int32)


def write_image(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> None:
    """Write a PNG of uint8 `[H, W, 3]`, or grey `[H, W]`.

    Raises:
        ValueError: another type, shape or suffix.
        OSError: the folder cannot be written to.
    """
    from PIL import Image

    path = Path(path)
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[-1] == 3)
    if image.dtype != np.uint8 or not shaped or image.size == 0:
        text = f"got {image.dtype} {image.shape}; want uint8 [H, W, 3] or [H, W]"
        raise ValueError(one_line(path, text))
    if path.suffix.lower() != ".png":
        raise ValueError(one_line(path, "images are written as PNG; end the name in .png"))
    _save_png(path, Image.fromarray(np.ascontiguousarray(image)))


def _save_png(path: Path, image: PILImage.Image) -> None:
    with whole_file(path) as temporary:
        image.save(temporary, format="PNG")


def write_json(path: str | os.PathLike[str], obj: object, *, compact: bool = False) -> None:
    """Write strict JSON: UTF-8, two spaces of indent or, if `compact`, in one line, no NaN or infinity.

    Raises:
        ValueError, TypeError: `obj` holds something that JSON has no form for.
        OSError: the folder cannot be written to.
    """
    try:
        layout: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 2}
        text = json.dumps(obj, **layout, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise type(error)(one_line(path, f"cannot be written as JSON: {error}")) from error
    with whole_file(path) as temporary:
        # A file name that is no UTF-8 holds lone surrogates; escaped they are still valid JSON.
        temporary.write_bytes((text + "\n").encode("utf-8", "backslashreplace"))
