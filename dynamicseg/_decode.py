"""Image files to arrays, by Pillow: every format but TIFF, which `_decode_tiff` reads.

Neither the warnings nor the log lines of the decoders reach the user: what matters in them becomes
an error, the rest is noise in a folder of thousands of files.
"""

from __future__ import annotations

import logging
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dynamicseg._files import Refusal, opened

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as PILImage

# Twice Pillow's own warning threshold, the size at which Pillow itself refuses.
MAX_PIXELS = 178_956_970

# Formats that hold one picture. Not in the list on purpose: what runs another program (EPS), and
# what has no signature, so that any file can pass for it (TGA).
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM")

# fmt: off
IMAGE_SUFFIXES = frozenset([
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".dib", ".gif", ".webp",
    ".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm",
])
# fmt: on

_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# TIFF tags without which pixels would be misread: layout, colours, bands, orientation.
_ESSENTIAL_TAGS = {254, 256, 257, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320}
_ESSENTIAL_TAGS |= {322, 323, 324, 325, 338, 339}

_decoders = threading.RLock()


class _Errors(logging.Handler):
    """Collects what tifffile logs as an error, except about tags that only describe the image."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        tag = re.search(r"TiffTag (\d+)", message)
        if tag is None or int(tag[1]) in _ESSENTIAL_TAGS:
            self.messages.append(message)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep decoders from printing; an error that tifffile only logs is raised.

    tifffile logs a broken chain of pages and goes on with the pages that it found, which would
    make a stack look like one image. Warning filters and loggers belong to the whole process, so
    only one thread at a time is in here.
    """
    logger = logging.getLogger("tifffile")
    errors = _Errors()
    with _decoders, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        propagate, logger.propagate = logger.propagate, False
        logger.addHandler(errors)
        try:
            yield
        finally:
            logger.removeHandler(errors)
            logger.propagate = propagate
    if errors.messages:
        raise Refusal(f"is damaged or cut short ({errors.messages[0]})")


def decode(path: Path, *, channel_axis: int | None = None) -> NDArray[Any]:
    """Read an image file as `[H, W, C]` of uint8, uint16 or float32, native byte order.

    Raises what `dynamicseg._files.opened` raises.
    """
    with opened(path) as file, _quiet():
        if _is_tiff(file):
            _refuse_without_tifffile()
            from dynamicseg._decode_tiff import decode_tiff

            return decode_tiff(file, channel_axis=channel_axis)
        image = open_with_pillow(file)
        refuse_other_axis(f"is a {image.format} file", channel_axis)
        array = _deep_png(image, file)
        if array is None:
            _refuse_lost_depth(image, file)
            array = plain_pixels(image)
        return np.ascontiguousarray(oriented(array, pillow_orientation(image)))


def decode_numbers(path: Path) -> NDArray[Any]:
    """Read a label image as integers `[H, W]`: the stored numbers, not the colours they show.

    Raises what `dynamicseg._files.opened` raises.
    """
    with opened(path) as file, _quiet():
        if _is_tiff(file):
            _refuse_without_tifffile()
            from dynamicseg._decode_tiff import decode_tiff_numbers

            return decode_tiff_numbers(file)
        image = open_with_pillow(file)
        if image.format in {"JPEG", "MPO"}:
            raise Refusal("is a JPEG, which changes label numbers; save the label map as PNG")
        return _stored_numbers(image)


def _refuse_without_tifffile() -> None:
    try:
        import tifffile  # noqa: F401
    except ImportError as error:  # a small device, which has only what prediction needs
        raise Refusal("is a TIFF, which needs another package: pip install tifffile") from error


def _is_tiff(file: BinaryIO) -> bool:
    signature = file.read(4)
    file.seek(0)
    return signature in _TIFF_SIGNATURES


def open_with_pillow(file: BinaryIO, formats: tuple[str, ...] = _FORMATS) -> PILImage.Image:
    """Read the header, refuse what is no image or too large, then decode nothing yet."""
    from PIL import Image, UnidentifiedImageError

    Image.init()
    try:
        image = Image.open(file, formats=[name for name in formats if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise too_large("by its header") from error
    except UnidentifiedImageError as error:
        if _has_signature(file, formats):
            raise Refusal("is damaged or cut short: its header cannot be read") from error
        file.seek(0)
        kinds = "JPEG, PNG, TIFF, BMP, GIF, WebP, AVIF, JPEG 2000 and PNM"
        text = f"is not an image that can be read (it starts with {file.read(8)!r}); {kinds} can be"
        raise Refusal(text) from error
    check_size(image.width, image.height)
    return image


def _has_signature(file: BinaryIO, formats: tuple[str, ...]) -> bool:
    from PIL import Image

    file.seek(0)
    start = file.read(16)
    tests = [Image.OPEN[name][1] for name in formats if name in Image.OPEN]
    return any(test is not None and test(start) is True for test in tests)


def check_size(width: int, height: int) -> None:
    """Refuse, from the header alone, an image that could exhaust the memory."""
    if width * height > MAX_PIXELS:
        raise too_large(f"{width} x {height} = {width * height} pixels")


def too_large(size: str) -> Refusal:
    """Return the refusal of an image of this size."""
    return Refusal(
        f"is too large ({size}; the limit is {MAX_PIXELS} pixels); cut or shrink it, or read it"
        " yourself and pass the array"
    )


def _deep_png(image: PILImage.Image, file: BinaryIO) -> NDArray[Any] | None:
    """Decode a 16-bit PNG with more than one channel at full precision; None for any other.

    Pillow has no mode for 16 bits a channel: it keeps the high byte of each value and says
    nothing. Its own decoder is therefore run twice, once told that values are stored with the high
    byte first (as they are) and once with the low byte first, which yields the low bytes. No other
    library is needed: pypng is pure Python and slow, imagecodecs is far larger than Pillow.
    """
    raw_mode = _raw_mode(image)
    if image.format != "PNG" or raw_mode not in {"RGB;16B", "RGBA;16B", "LA;16B"}:
        return None
    if raw_mode == "LA;16B":
        # Four bytes a pixel, the grey value first: read as if they were four channels of 8 bits.
        bytes_ = _load_raw(image, "RGBA")
        high, low = bytes_[..., :1], bytes_[..., 1:2]
    else:
        high = _load_raw(image, raw_mode)[..., :3]
        low = _load_raw(open_with_pillow(file), raw_mode.replace("16B", "16L"))[..., :3]
    return (high.astype(np.uint16) << 8) | low


def _raw_mode(image: PILImage.Image) -> str:
    """Return Pillow's name of the layout in the file, such as `RGB;16B`; empty if it has none."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if len(tiles) == 1 else None
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else None
    return arguments if isinstance(arguments, str) else ""


def _load_raw(image: PILImage.Image, raw_mode: str) -> NDArray[np.uint8]:
    tile = image.tile[0]  # type: ignore[attr-defined]
    image.tile = [(*tile[:3], raw_mode)]  # type: ignore[attr-defined]
    return np.array(image)


def _refuse_lost_depth(image: PILImage.Image, file: BinaryIO) -> None:
    """Refuse colour of more than 8 bits where Pillow would reduce it to 8 without a word."""
    if image.mode not in {"RGB", "RGBA", "LA"}:
        return
    deep = False
    if image.format == "PPM":
        arguments = image.tile[0][3]  # type: ignore[attr-defined]
        deep = isinstance(arguments, tuple) and int(arguments[-1]) > 255
    elif image.format == "JPEG2000":
        deep = any(depth > 8 for depth in _jpeg2000_depths(file))
    if deep:
        raise Refusal("has more than 8 bits a colour in this format; save it as PNG or TIFF")


def _jpeg2000_depths(file: BinaryIO) -> list[int]:
    """Return the bits of each component, from the SIZ marker (ISO 15444-1, A.5.1)."""
    file.seek(0)
    head = file.read(1 << 16)
    start = head.find(b"\xff\x4f\xff\x51")
    if start < 0:
        return []
    (count,) = struct.unpack_from(">H", head, start + 40)
    return [(head[start + 42 + 3 * k] & 0x7F) + 1 for k in range(count)]


def refuse_other_axis(what: str, channel_axis: int | None) -> None:
    """Refuse a channel axis for an image that knows its channels, unless it is the last, where they are."""
    if channel_axis not in {None, 2, -1}:
        raise Refusal(
            f"{what}, which knows its channels: leave out --channel-axis {channel_axis} (channel_axis in Python), "
            "which is for TIFF files with three axes"
        )


def plain_pixels(image: PILImage.Image) -> NDArray[Any]:
    """Decode a Pillow image to `[H, W, 1]` or `[H, W, 3]`; alpha is dropped.

    Bilevel is 0 and 255; palette, CMYK and other colour spaces become RGB.
    """
    mode = image.mode
    if mode == "1":
        return np.array(image.convert("L"))[..., None]
    if mode in {"LA", "La"}:
        return np.array(image.convert("LA"))[..., :1]
    if mode == "L" or mode == "F" or mode.startswith("I"):
        array = np.array(image)
        if mode == "I" and image.format in {"PNG", "PPM"}:
            array = array.astype(np.uint16)  # older Pillow holds 16-bit grey in 32 bits
        return supported(array)[..., None]
    if mode == "RGBa":
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _stored_numbers(image: PILImage.Image) -> NDArray[Any]:
    raw_mode, mode = _raw_mode(image), image.mode
    if mode not in {"1", "L", "P"} and not mode.startswith("I"):
        bands = "".join(image.getbands())
        raise Refusal(f"is a colour image ({bands}); want a label map: palette or grey")
    array = np.array(image)
    # Pillow spreads grey of 2 and 4 bits over 0..255.
    return array // {"L;2": 85, "L;4": 17}.get(raw_mode, 1) if mode == "L" else array


def supported(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as uint8, uint16 or float32, with the same values.

    bool becomes 0 and 255 in uint8, and every other number type float32. An integer that float32
    cannot hold exactly is refused rather than rounded.
    """
    kind, dtype = array.dtype.kind, array.dtype
    if kind == "b":
        return np.asarray(np.where(array, 255, 0), np.uint8)
    if dtype in (np.dtype(np.uint8), np.dtype(np.uint16)):
        return np.asarray(array.astype(dtype.newbyteorder("="), copy=False))
    if kind not in "iuf":
        raise Refusal(f"holds {dtype} values; want integers or floating point numbers")
    with np.errstate(over="ignore"):
        result = array.astype(np.float32)
    exact = 1 << 24
    if kind in "iu" and array.size and (array.max() > exact or array.min() < -exact):
        raise Refusal(
            f"holds {dtype} values beyond 16777216, which float32 cannot hold exactly; scale them"
            " to uint16 or float32 first"
        )
    return result


def pillow_orientation(image: PILImage.Image) -> int:
    """Return the EXIF orientation (1 to 8) that is still to be applied; call after decoding."""
    value = image.getexif().get(0x0112, 1)
    return value if isinstance(value, int) else 1


def oriented(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn `[H, W, ...]` upright, from an EXIF or TIFF orientation; an unknown one is ignored."""
    if orientation in {5, 6, 7, 8}:
        array = array.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        array = array[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        array = array[::-1]
    return array
