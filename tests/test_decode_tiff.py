"""What reading promises of TIFF: every band and bit, or a reason."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

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


class TestTiff:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize("compression", [None, "zlib"])
    @pytest.mark.parametrize("byteorder", ["<", ">"])
    def test_values_and_type_are_kept(
        self, tmp_path: Path, dtype: Any, compression: str | None, byteorder: Any
    ) -> None:
        image = noise((6, 5, 3), dtype)
        path = tmp_path / "x.tif"
        tifffile.imwrite(path, image, photometric="rgb", compression=compression, byteorder=byteorder)
        read = dio.read_image(path)
        assert read.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(read, image)

    def test_many_bands_interleaved_and_planar(self, tmp_path: Path) -> None:
        image = noise((6, 5, 13), np.uint16)
        path = tmp_path / "x.tif"
        tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig")
        np.testing.assert_array_equal(dio.read_image(path), image)
        planar = np.moveaxis(image, -1, 0)
        tifffile.imwrite(path, planar, photometric="minisblack", planarconfig="separate")
        np.testing.assert_array_equal(dio.read_image(path), image)

    def test_channels_named_by_imagej_and_ome_come_last(self, tmp_path: Path) -> None:
        bands = noise((4, 6, 5), np.uint16)
        tifffile.imwrite(tmp_path / "x.tif", bands, metadata={"axes": "CYX"}, imagej=True)
        tifffile.imwrite(tmp_path / "x.ome.tif", bands, metadata={"axes": "CYX"}, ome=True)
        for name in ("x.tif", "x.ome.tif"):
            read = dio.read_image(tmp_path / name)
            np.testing.assert_array_equal(read, np.moveaxis(bands, 0, -1))

    def test_stack_is_refused_and_channel_axis_takes_it(self, tmp_path: Path) -> None:
        stack = noise((20, 8, 6))
        path = tmp_path / "x.tif"
        tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"})
        line = refusal(path)
        for part in ("stack", "ZYX", "20x8x6", "--channel-axis 0", "channel_axis=0"):
            assert part in line
        for axis in (0, -3):
            read = dio.read_image(path, channel_axis=axis)
            np.testing.assert_array_equal(read, np.moveaxis(stack, 0, -1))
        assert "no channel axis 3" in refusal(path, channel_axis=3)

    def test_more_than_three_axes_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tif"
        tifffile.imwrite(path, noise((2, 3, 8, 6)), imagej=True, metadata={"axes": "ZCYX"})
        assert "4 axes" in refusal(path)
        assert "ZCYX" in refusal(path, channel_axis=0)

    def test_images_of_different_sizes_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tif"
        with tifffile.TiffWriter(path) as writer:
            writer.write(noise((8, 6)), metadata=None)
            writer.write(noise((5, 4)), metadata=None)
        assert "holds 2 images" in refusal(path)

    def test_overviews_and_masks_are_not_images(self, tmp_path: Path) -> None:
        image = noise((8, 6, 3))
        path = tmp_path / "x.tif"
        with tifffile.TiffWriter(path) as writer:
            writer.write(image, photometric="rgb", metadata=None)
            writer.write(image[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
            writer.write(image[..., 0] > 127, photometric=4, subfiletype=4, metadata=None)
        np.testing.assert_array_equal(dio.read_image(path), image)

    def test_only_declared_alpha_is_dropped(self, tmp_path: Path) -> None:
        image = noise((8, 6, 4), np.uint16)
        path = tmp_path / "x.tif"
        tifffile.imwrite(path, image, photometric="rgb", extrasamples=["unassalpha"])
        np.testing.assert_array_equal(dio.read_image(path), image[..., :3])
        tifffile.imwrite(path, image, photometric="rgb", extrasamples=["unspecified"])
        np.testing.assert_array_equal(dio.read_image(path), image)

    @pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "int64", "float16"])
    def test_other_number_types_become_float32_exactly(self, tmp_path: Path, dtype: str) -> None:
        values = np.array([[0, 1, 2], [100, 110, 120]], dtype)
        tifffile.imwrite(tmp_path / "x.tif", values)
        read = dio.read_image(tmp_path / "x.tif")
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read[..., 0], values.astype(np.float64))

    def test_integers_beyond_float32_are_refused(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "x.tif", np.array([[0, 1 << 24]], np.uint32))
        assert dio.read_image(tmp_path / "x.tif").max() == 1 << 24
        tifffile.imwrite(tmp_path / "x.tif", np.array([[0, (1 << 24) + 1]], np.uint32))
        assert "float32 cannot hold" in refusal(tmp_path / "x.tif")

    def test_float64_becomes_float32(self, tmp_path: Path) -> None:
        values = np.random.default_rng(0).normal(size=(4, 5))
        tifffile.imwrite(tmp_path / "x.tif", values)
        read = dio.read_image(tmp_path / "x.tif")
        np.testing.assert_array_equal(read[..., 0], values.astype(np.float32))

    def test_complex_is_refused(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "x.tif", np.zeros((4, 5), np.complex64))
        assert "complex64" in refusal(tmp_path / "x.tif")

    def test_bilevel_and_inverted_grey_look_as_they_should(self, tmp_path: Path) -> None:
        bits = noise((5, 9)) > 127
        for photometric, stored in (("minisblack", bits), ("miniswhite", ~bits)):
            tifffile.imwrite(tmp_path / "x.tif", stored, photometric=photometric)
            read = dio.read_image(tmp_path / "x.tif")
            np.testing.assert_array_equal(read[..., 0], np.where(bits, 255, 0))
        grey = noise((5, 9), np.uint16)
        tifffile.imwrite(tmp_path / "x.tif", grey, photometric="miniswhite")
        np.testing.assert_array_equal(dio.read_image(tmp_path / "x.tif")[..., 0], 65535 - grey)

    def test_palette_and_cmyk_become_rgb(self, tmp_path: Path) -> None:
        source = Image.fromarray(noise((9, 8, 3)))
        for mode in ("P", "CMYK"):
            converted = source.convert(mode)
            converted.save(tmp_path / "x.tif")
            want = np.array(converted.convert("RGB"))
            np.testing.assert_array_equal(dio.read_image(tmp_path / "x.tif"), want)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16", "F", "P"])
    def test_lzw_is_read_where_pillow_loses_nothing(self, tmp_path: Path, mode: str) -> None:
        if mode == "I;16":
            source = Image.fromarray(noise((9, 8), np.uint16))
        else:
            source = Image.fromarray(noise((9, 8, 4)), "RGBA").convert(mode)
        source.save(tmp_path / "plain.tif")
        source.save(tmp_path / "lzw.tif", compression="tiff_lzw")
        read, want = dio.read_image(tmp_path / "lzw.tif"), dio.read_image(tmp_path / "plain.tif")
        assert read.dtype == want.dtype
        np.testing.assert_array_equal(read, want)

    def test_codec_that_is_not_there_names_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def asarray(_: object) -> None:
            raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

        image = noise((8, 6, 3), np.uint16)
        tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", compression="zlib")
        monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", asarray)
        assert "pip install imagecodecs" in refusal(tmp_path / "x.tif")

    def test_stack_without_codec_is_never_cut_to_its_first_page(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def asarray(_: object) -> None:
            raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

        tifffile.imwrite(tmp_path / "x.tif", noise((3, 8, 6)), photometric="minisblack")
        monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", asarray)
        assert "imagecodecs" in refusal(tmp_path / "x.tif", channel_axis=0)

    def test_broken_chain_of_pages_is_not_one_image(self, tmp_path: Path) -> None:
        path = tmp_path / "x.tif"
        with tifffile.TiffWriter(path) as writer:
            for _ in range(3):
                writer.write(noise((8, 6)), metadata=None, contiguous=False)
        with tifffile.TiffFile(path) as tiff:
            second = tiff.pages[1].offset
        path.write_bytes(path.read_bytes()[:second])
        assert "damaged" in refusal(path)

    def test_only_a_broken_tag_that_matters_is_fatal(self, tmp_path: Path) -> None:
        image = noise((8, 6, 3))
        path = tmp_path / "x.tif"
        for code, fatal in ((270, False), (258, True)):
            tifffile.imwrite(path, image, photometric="rgb", description="d" * 50, metadata=None)
            with tifffile.TiffFile(path) as tiff:
                place = tiff.pages.first.tags[code].offset + 8
            data = bytearray(path.read_bytes())
            data[place : place + 4] = struct.pack("<I", 1 << 30)
            path.write_bytes(data)
            if fatal:
                assert "damaged" in refusal(path)
            else:
                np.testing.assert_array_equal(dio.read_image(path), image)
