"""What reading promises of every format but TIFF, and of every damaged file."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dynamicseg import io as dio

REFUSALS = (ValueError, TypeError, FileNotFoundError, OSError)


def noise(shape: tuple[int, ...], dtype: Any = np.uint8, seed: int = 0) -> NDArray[Any]:
    limits = np.iinfo(dtype)
    generator = np.random.default_rng(seed)
    return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def refusal(path: Path, **options: Any) -> str:
    """Read a file that must be refused, and return the one line that says why."""
    with pytest.raises(REFUSALS) as caught:
        dio.read_image(path, **options)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line


def encode_png(values: NDArray[np.uint16], *, interlaced: bool = False) -> bytes:
    """Encode `[H, W, 2..4]` as 16-bit PNG with all five row filters in turn: Pillow cannot."""
    height, width, channels = values.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2)]
        passes += [(0, 1, 2, 2), (1, 0, 2, 1)]
    data = b""
    for top, left, down, right in passes:
        part = values[top::down, left::right].astype(">u2")
        rows = np.ascontiguousarray(part).view(np.uint8).reshape(part.shape[0], -1)
        data += filter_rows(rows, 2 * channels)
    colour = {2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def filter_rows(rows: NDArray[np.uint8], step: int) -> bytes:
    padded = np.pad(rows.astype(int), ((1, 0), (step, 0)))
    result = b""
    for y in range(1, len(padded)):
        here, left = padded[y, step:], padded[y, :-step]
        up, corner = padded[y - 1, step:], padded[y - 1, :-step]
        estimate = left + up - corner
        distances = np.abs(np.stack([left, up, corner]) - estimate)
        paeth = np.choose(np.argmin(distances, axis=0), [left, up, corner])
        kind = (y - 1) % 5
        predicted = [np.zeros_like(left), left, up, (left + up) // 2, paeth][kind]
        result += bytes([kind]) + ((here - predicted) % 256).astype(np.uint8).tobytes()
    return result


class TestPillowFormats:
    @pytest.mark.parametrize("suffix", [".png", ".bmp", ".ppm", ".webp"])
    def test_lossless_colour_keeps_every_value(self, tmp_path: Path, suffix: str) -> None:
        image = noise((7, 5, 3))
        Image.fromarray(image).save(tmp_path / f"x{suffix}", lossless=True)
        read = dio.read_image(tmp_path / f"x{suffix}")
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, image)

    @pytest.mark.parametrize("channels", [2, 3, 4])
    @pytest.mark.parametrize("interlaced", [False, True])
    def test_16_bit_colour_png_keeps_16_bits(self, tmp_path: Path, channels: int, interlaced: bool) -> None:
        image = noise((13, 11, channels), np.uint16)
        (tmp_path / "x.png").write_bytes(encode_png(image, interlaced=interlaced))
        read = dio.read_image(tmp_path / "x.png")
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, image[..., : 1 if channels == 2 else 3])

    def test_16_bit_grey_png(self, tmp_path: Path) -> None:
        image = noise((6, 4), np.uint16)
        Image.fromarray(image).save(tmp_path / "x.png")
        read = dio.read_image(tmp_path / "x.png")
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read[..., 0], image)

    @pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 1), ("RGBA", 3), ("P", 3)])
    def test_alpha_is_dropped_and_palettes_become_colours(self, tmp_path: Path, mode: str, channels: int) -> None:
        source = Image.fromarray(noise((9, 8, 4)), "RGBA").convert(mode)
        source.save(tmp_path / "x.png")
        want = np.array(source.convert("L" if channels == 1 else "RGB")).reshape(9, 8, channels)
        np.testing.assert_array_equal(dio.read_image(tmp_path / "x.png"), want)

    def test_transparent_palette_is_read_without_warning(self, tmp_path: Path) -> None:
        source = Image.fromarray(noise((9, 8, 3))).convert("P")
        source.save(tmp_path / "x.png", transparency=bytes(range(256)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read = dio.read_image(tmp_path / "x.png")
        np.testing.assert_array_equal(read, np.array(source.convert("RGB")))

    def test_bilevel_becomes_0_and_255(self, tmp_path: Path) -> None:
        bits = noise((5, 9)) > 127
        Image.fromarray(bits).save(tmp_path / "x.png")
        read = dio.read_image(tmp_path / "x.png")
        np.testing.assert_array_equal(read[..., 0], np.where(bits, 255, 0))

    def test_jpeg_grey_colour_and_cmyk(self, tmp_path: Path) -> None:
        smooth = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)
        Image.fromarray(smooth).save(tmp_path / "grey.jpg", quality=95)
        rgb = Image.fromarray(np.dstack([smooth, smooth.T, smooth[::-1]]))
        rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95, subsampling=0)
        grey = dio.read_image(tmp_path / "grey.jpg")
        assert grey.shape == (32, 32, 1)
        assert np.abs(grey[..., 0].astype(int) - smooth).max() < 8
        cmyk = dio.read_image(tmp_path / "cmyk.jpg")
        assert cmyk.shape == (32, 32, 3)
        assert np.abs(cmyk.astype(int) - np.array(rgb)).mean() < 8

    def test_first_frame_of_an_animation(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
        frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
        read = dio.read_image(tmp_path / "x.gif")
        np.testing.assert_array_equal(read, np.full((3, 4, 3), (255, 0, 0)))

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("suffix", [".png", ".tif"])
    def test_orientation_is_applied(self, tmp_path: Path, orientation: int, suffix: str) -> None:
        source = Image.fromarray(noise((4, 6, 3)))
        exif = Image.Exif()
        exif[0x0112] = orientation
        source.save(tmp_path / f"x{suffix}", exif=exif)
        upright = source.copy()
        upright.getexif()[0x0112] = orientation
        want = np.array(ImageOps.exif_transpose(upright))
        np.testing.assert_array_equal(dio.read_image(tmp_path / f"x{suffix}"), want)

    @pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
    def test_a_channel_axis_is_for_tiff_alone(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        Image.new("RGB", (5, 4)).save(path)
        for axis in (None, 2, -1):
            assert dio.read_image(path, channel_axis=axis).shape == (4, 5, 3)
        with pytest.raises(ValueError, match=r"knows its channels: leave out --channel-axis 0 .* TIFF") as caught:
            dio.read_image(path, channel_axis=0)
        assert str(caught.value).startswith(f"{path}: is a ")

    def test_suffix_does_not_matter(self, tmp_path: Path) -> None:
        image = noise((3, 4, 3))
        Image.fromarray(image).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / "x.jpg")
        np.testing.assert_array_equal(dio.read_image(tmp_path / "x.jpg"), image)

    def test_16_bit_colour_pnm_is_refused_rather_than_reduced(self, tmp_path: Path) -> None:
        body = noise((2, 3, 3), np.uint16).astype(">u2").tobytes()
        (tmp_path / "x.ppm").write_bytes(b"P6\n3 2\n65535\n" + body)
        assert "save it as PNG or TIFF" in refusal(tmp_path / "x.ppm")

    def test_16_bit_colour_jpeg2000_is_refused_rather_than_reduced(self, tmp_path: Path) -> None:
        Image.fromarray(noise((32, 32, 3))).save(tmp_path / "x.jp2", irreversible=False)
        np.testing.assert_array_equal(dio.read_image(tmp_path / "x.jp2"), noise((32, 32, 3)))
        data = (tmp_path / "x.jp2").read_bytes()
        components = data.index(b"\xff\x4f\xff\x51") + 42
        deep = data[:components] + b"\x0f" + data[components + 1 :]
        (tmp_path / "x.jp2").write_bytes(deep)
        assert "more than 8 bits" in refusal(tmp_path / "x.jp2")


class TestBadFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no such file"):
            dio.read_image(tmp_path / "no.png")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError):
            dio.read_image(tmp_path)
        assert "is a folder" in refusal(tmp_path)

    def test_permission_denied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "x.png"
        path.write_bytes(b"secret")

        def denied(name: str, *_: object) -> None:
            raise PermissionError(13, "Permission denied", name)

        monkeypatch.setattr("builtins.open", denied)
        with pytest.raises(PermissionError) as caught:
            dio.read_image(path)
        assert str(caught.value) == f"{path}: cannot be read: Permission denied"

    def test_empty_file_text_and_odd_names(self, tmp_path: Path) -> None:
        (tmp_path / "x.jpg").write_bytes(b"")
        assert "empty (0 bytes)" in refusal(tmp_path / "x.jpg")
        (tmp_path / "x.jpg").write_text("hello, this is no picture\nat all\n")
        assert "not an image" in refusal(tmp_path / "x.jpg")
        for start in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0\x08\0\0\0"):
            (tmp_path / "x.jpg").write_bytes(start)
            assert "damaged or cut short" in refusal(tmp_path / "x.jpg")
        with pytest.raises(FileNotFoundError) as caught:
            dio.read_image(tmp_path / "two\nlines.png")
        assert "\n" not in str(caught.value)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_pipe_is_refused_without_waiting(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "x.png")
        assert "not a regular file" in refusal(tmp_path / "x.png")

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
    def test_truncated(self, tmp_path: Path, kind: str) -> None:
        Image.fromarray(noise((40, 40, 3))).save(tmp_path / "x", kind)
        data = (tmp_path / "x").read_bytes()
        (tmp_path / "x").write_bytes(data[: len(data) // 2])
        assert "damaged" in refusal(tmp_path / "x")

    @pytest.mark.parametrize("side", [13_378, 14_000, 60_000])
    def test_more_pixels_than_the_limit_are_refused_before_decoding(self, tmp_path: Path, side: int) -> None:
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        ihdr = b"IHDR" + header
        png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr
        png += struct.pack(">I", zlib.crc32(ihdr)) + struct.pack(">I", 1000) + b"IDAT"
        (tmp_path / "x.png").write_bytes(png)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "too large" in refusal(tmp_path / "x.png")

    def test_large_tiff_is_refused_before_decoding(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tif"
        tifffile.imwrite(path, noise((8, 6)), metadata=None)
        with tifffile.TiffFile(path, mode="r+") as tiff:
            tiff.pages.first.tags["ImageLength"].overwrite(30_000, dtype="I")
            tiff.pages.first.tags["ImageWidth"].overwrite(30_000, dtype="I")
        assert "too large" in refusal(path)

    def test_nan_names_count_and_place(self, tmp_path: Path) -> None:
        image = np.zeros((4, 5, 3), np.float32)
        image[2, 3, 1] = np.nan
        image[3, 0, 0] = np.inf
        tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb")
        line = refusal(tmp_path / "x.tif")
        assert "2 of 60 values" in line
        assert "row 2, column 3, channel 1" in line


def small_files() -> dict[str, bytes]:
    """One small file of each format and layout that has its own decoder."""
    rgb = noise((6, 5, 3))
    files: dict[str, bytes] = {"deep.png": encode_png(rgb.astype(np.uint16) * 257)}
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF", "JPEG2000"):
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, kind)
        files[kind] = buffer.getvalue()
    for name, options in (
        ("plain", {}),
        ("zlib", {"compression": "zlib"}),
        ("tiled", {"tile": (16, 16), "compression": "zlib"}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, rgb, photometric="rgb", **options)
        files[f"{name}.tif"] = buffer.getvalue()
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "TIFF", compression="tiff_lzw")
    files["lzw.tif"] = buffer.getvalue()
    return files


SMALL_FILES = small_files()
PLACE = st.floats(0.0, 1.0, exclude_max=True)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(sorted(SMALL_FILES)),
    edits=st.lists(st.tuples(PLACE, st.integers(0, 255)), max_size=4),
    keep=st.one_of(st.just(1.0), PLACE),
)
def test_damaged_file_gives_an_image_or_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    edits: list[tuple[float, int]],
    keep: float,
) -> None:
    data = bytearray(SMALL_FILES[name])
    for place, value in edits:
        data[int(place * len(data))] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data[: int(keep * len(data))])
    for read in (dio.read_image, dio.read_label_map):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                result = read(path)
        except REFUSALS as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
            assert type(error).__module__ == "builtins"
        else:
            assert result.dtype in (np.uint8, np.uint16, np.float32, np.int32)
            assert result.size > 0
