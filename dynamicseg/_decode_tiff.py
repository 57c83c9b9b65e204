"""TIFF files to arrays, by tifffile: any number of bands, any layout, 16 bits and floats.

Pillow reads only what tifffile cannot without the large package imagecodecs (LZW, JPEG, CCITT) or
does not turn into RGB (palettes, CMYK, YCbCr), and only where it keeps every bit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from dynamicseg._decode import (
    check_size,
    open_with_pillow,
    oriented,
    pillow_orientation,
    plain_pixels,
    supported,
)
from dynamicseg._files import Refusal

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image as PILImage
    from tifffile import TiffFile, TiffPage, TiffPageSeries

# Photometric interpretations (TIFF 6.0, section 8).
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, _CMYK, _YCBCR = range(7)
_STORED = {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _MASK}  # the numbers are the image
_CONVERTED = {_PALETTE, _CMYK, _YCBCR}  # the numbers stand for colours

_ALPHA = {
    1,
    2,
}  # ExtraSamples: associated and unassociated alpha; 0 is a band like any other

# A header that promises more than this times the size of the file lies: deflate reaches 1032.
_MOST_COMPRESSED = 2000
_ALWAYS_ALLOWED_BYTES = 1 << 28


def decode_tiff(file: BinaryIO, *, channel_axis: int | None) -> NDArray[Any]:
    """Read a TIFF as `[H, W, C]` of uint8, uint16 or float32.

    Args:
        file: open at its beginning.
        channel_axis: which axis of a three-dimensional file holds the bands, for a stack whose
            file does not say so itself.

    Raises:
        Refusal: a stack, several images, or a kind that cannot be read without loss.
    """
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        series = _only_series(tiff)
        page = series.keyframe
        _check_declared_size(series, tiff.filehandle.size)
        axis = _channel_axis(series, channel_axis)
        photometric = _photometric(page)
        if photometric not in _STORED | _CONVERTED:
            name = getattr(page.photometric, "name", page.photometric)
            raise Refusal(f"is a TIFF of the kind {name}, which cannot be read; convert it to RGB")
        values = _stored_values(series) if photometric in _STORED else None
        if values is not None:
            orientation = page.tags.valueof(274, default=1)
            image = values[..., None] if axis is None else np.moveaxis(values, axis, -1)
            if photometric == _WHITE_IS_ZERO and image.dtype.kind in "bu":
                image = ~image  # for bool and unsigned integers this is maximum - value
        else:
            with_pillow = _open_lossless(file, series)
            if photometric in _CONVERTED:
                image = plain_pixels(with_pillow)
            else:
                image = _stored_by_pillow(with_pillow, page)
            orientation = pillow_orientation(with_pillow)
        if axis is not None and series.axes[axis] == "S" and photometric in _STORED:
            image = _without_alpha(image, page)
    return np.ascontiguousarray(oriented(supported(image), orientation))


def decode_tiff_numbers(file: BinaryIO) -> NDArray[Any]:
    """Read a TIFF with one band as `[H, W]` of whatever type it stores.

    Raises:
        Refusal: more than one band or page, or a kind that cannot be read without loss.
    """
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        series = _only_series(tiff)
        _check_declared_size(series, tiff.filehandle.size)
        if len(series.shape) != 2:
            raise Refusal(f"has {_axes_text(series)}; want a label map with one band [H, W]")
        values = _stored_values(series)
        if values is None and _photometric(series.keyframe) == _WHITE_IS_ZERO:
            raise _needs_imagecodecs(series.keyframe)  # Pillow would turn the numbers around
        return np.array(_open_lossless(file, series)) if values is None else values


def _only_series(tiff: TiffFile) -> TiffPageSeries:
    """Return the one image of the file, not counting its previews, overviews and masks."""
    full = [s for s in tiff.series if not _is_auxiliary(s)]
    if not tiff.series:
        raise Refusal("is damaged or cut short: no image is found in it")
    if not full:
        raise Refusal("holds only previews (a camera raw file?); convert it to TIFF or PNG first")
    if len(full) > 1:
        shapes = ", ".join(_axes_text(s) for s in full[:4])
        raise Refusal(f"holds {len(full)} images ({shapes}); save the one you want as its own file")
    return full[0]


def _is_auxiliary(series: TiffPageSeries) -> bool:
    page = series.keyframe
    return bool(page.is_reduced or page.is_mask)


def _axes_text(series: TiffPageSeries) -> str:
    shape = "x".join(str(n) for n in series.shape)
    return f"axes {series.axes}, shape {shape}"


def _photometric(page: TiffPage) -> int:
    # Required by the standard, yet missing in some files, which then store plain numbers.
    return int(page.photometric) if 262 in page.tags else _BLACK_IS_ZERO


def _check_declared_size(series: TiffPageSeries, file_size: int) -> None:
    if 0 in series.shape:
        raise Refusal(f"is empty ({_axes_text(series)})")
    check_size(series.keyframe.imagewidth, series.keyframe.imagelength)
    declared = math.prod(series.shape) * (series.dtype.itemsize if series.dtype else 1)
    if declared > max(_ALWAYS_ALLOWED_BYTES, _MOST_COMPRESSED * file_size):
        raise Refusal(
            f"is damaged: it says that it holds {declared} bytes of pixels ({_axes_text(series)})"
            f" in a file of {file_size} bytes"
        )


def _channel_axis(series: TiffPageSeries, wanted: int | None) -> int | None:
    """Return the axis that holds the bands, None for one band; refuse a stack."""
    ndim, axes = len(series.shape), series.axes
    if ndim > 3:
        raise Refusal(
            f"has {ndim} axes ({_axes_text(series)}); want one image, [H, W] or [H, W, C]: save the"
            " slice you want as its own file"
        )
    if ndim < 3:
        return None
    if wanted is not None:
        if not -3 <= wanted < 3:
            raise Refusal(f"has 3 axes ({_axes_text(series)}): there is no channel axis {wanted}")
        return wanted % 3
    for letter in "SC":
        if letter in axes:
            return axes.index(letter)
    raise Refusal(
        f"is a stack ({_axes_text(series)}); save one page as its own file, or, if the pages are"
        " bands, say so with --channel-axis 0 (channel_axis=0 in Python)"
    )


def _stored_values(series: TiffPageSeries) -> NDArray[Any] | None:
    """Decode all values as stored; None where tifffile would need imagecodecs."""
    try:
        values = series.asarray()
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        return None
    if values.shape != tuple(series.shape):
        raise Refusal(f"is damaged: it says {_axes_text(series)}, but holds {values.shape}")
    return values


def _without_alpha(image: NDArray[Any], page: TiffPage) -> NDArray[Any]:
    """Drop the samples of `[H, W, S]` that the file declares to be alpha."""
    samples, extra = image.shape[-1], page.extrasamples
    alpha = [samples - len(extra) + k for k, kind in enumerate(extra) if kind in _ALPHA]
    return np.delete(image, alpha, axis=-1) if 0 < len(alpha) < samples else image


def _open_lossless(file: BinaryIO, series: TiffPageSeries) -> PILImage.Image:
    """Open with Pillow, if it keeps every bit of this image."""
    page = series.keyframe
    bits, samples = page.bitspersample, page.samplesperpixel
    # Pillow does not turn 16-bit grey around where white is zero.
    deep_grey = samples == 1 and bits in {16, 32} and _photometric(page) != _WHITE_IS_ZERO
    if len(series.pages) > 1 or not (deep_grey or (bits in {1, 8} and samples <= 4)):
        raise _needs_imagecodecs(page)
    file.seek(0)
    return open_with_pillow(file, ("TIFF",))


def _stored_by_pillow(image: PILImage.Image, page: TiffPage) -> NDArray[Any]:
    values = np.array(image)
    values = values if values.ndim == 3 else values[..., None]
    if values.shape[-1] != page.samplesperpixel:
        raise _needs_imagecodecs(page)
    return values


def _needs_imagecodecs(page: TiffPage) -> Refusal:
    compression = getattr(page.compression, "name", page.compression)
    return Refusal(
        f"is a TIFF with {compression} compression and {page.samplesperpixel} x"
        f" {page.bitspersample} bits a pixel, which needs another package: pip install imagecodecs"
    )
