"""What `dynamicseg.io` promises of arrays, label maps, pictures and whole files."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from dynamicseg import io as dio


def noise(shape: tuple[int, ...], dtype: Any = np.uint8, seed: int = 0) -> NDArray[Any]:
    limits = np.iinfo(dtype)
    generator = np.random.default_rng(seed)
    return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)


class TestAsImage:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", ">u2", ">f4"])
    def test_arrays_are_taken_as_they_are(self, dtype: str) -> None:
        array = np.arange(24).reshape(2, 3, 4).astype(dtype)
        image = dio.as_image(array)
        assert image.dtype.isnative
        np.testing.assert_array_equal(image, array)

    def test_native_array_is_not_copied(self) -> None:
        array = noise((2, 3, 4))
        assert np.shares_memory(dio.as_image(array), array)

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_other_floats_become_float32(self, dtype: Any) -> None:
        assert dio.as_image(np.ones((2, 3), dtype)).dtype == np.float32

    @pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "int64", "uint32", "complex64"])
    def test_other_types_are_refused_by_name(self, dtype: str) -> None:
        with pytest.raises(TypeError, match=f"{dtype}; want uint8, uint16 or floating point"):
            dio.as_image(np.zeros((2, 3), dtype))

    def test_grey_gets_one_channel_and_channel_axis_moves_last(self) -> None:
        assert dio.as_image(noise((2, 3))).shape == (2, 3, 1)
        array = noise((4, 2, 3))
        moved = dio.as_image(array, channel_axis=0)
        np.testing.assert_array_equal(moved, np.moveaxis(array, 0, -1))
        with pytest.raises(ValueError, match="no channel axis 3"):
            dio.as_image(array, channel_axis=3)

    def test_a_pil_image_knows_its_channels(self) -> None:
        image = Image.fromarray(noise((4, 5, 3)))
        assert dio.as_image(image, channel_axis=-1).shape == (4, 5, 3)
        with pytest.raises(ValueError, match="image: is a PIL image, which knows its channels: leave out"):
            dio.as_image(image, channel_axis=0)

    @pytest.mark.parametrize("shape", [(), (3,), (1, 2, 3, 4)])
    def test_wrong_number_of_axes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=f"{len(shape)} axes"):
            dio.as_image(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0, 1), (2, 2, 0)])
    def test_empty(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="empty"):
            dio.as_image(np.zeros(shape, np.uint8))

    def test_nan_and_float64_too_large_for_float32(self) -> None:
        with pytest.raises(ValueError, match=r"1 of 6 .* row 1, column 2, channel 0"):
            dio.as_image(np.array([[0, 0, 0], [0, 0, 1e300]]))

    def test_hidden_values_of_a_masked_array_are_not_used(self) -> None:
        values = np.ma.MaskedArray(noise((2, 2)), mask=[[True, False], [False, False]])
        with pytest.raises(ValueError, match="1 masked"):
            dio.as_image(values)
        np.testing.assert_array_equal(dio.as_image(values.filled(0))[0, 0], [0])

    def test_paths_and_pil_images(self, tmp_path: Path) -> None:
        array = noise((4, 5, 3))
        Image.fromarray(array).save(tmp_path / "x.png")
        for value in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(array)):
            np.testing.assert_array_equal(dio.as_image(value), array)
        with Image.open(tmp_path / "x.png") as opened:
            np.testing.assert_array_equal(dio.as_image(opened), array)

    def test_truncated_pil_image(self) -> None:
        whole = io.BytesIO()
        Image.fromarray(noise((6, 5, 3))).save(whole, "PNG")
        opened = Image.open(io.BytesIO(whole.getvalue()[:-40]))
        with pytest.raises(ValueError, match="cannot be decoded") as caught:
            dio.as_image(opened)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("value", [None, 3, [[1, 2]], b"x.png"])
    def test_what_is_no_image_is_a_type_error(self, value: object) -> None:
        with pytest.raises(TypeError, match="want a path, a PIL image, or an array"):
            dio.as_image(value)


class TestLabelMaps:
    @pytest.mark.parametrize("n_labels", [1, 2, 3, 16, 17, 256, 257, 65536, 65537])
    def test_file_holds_the_numbers(self, tmp_path: Path, n_labels: int) -> None:
        labels = np.random.default_rng(0).integers(0, n_labels, (30, 20), np.int32)
        labels[0, 0] = n_labels - 1
        path = tmp_path / f"x{dio.label_map_suffix(n_labels)}"
        dio.write_label_map(path, labels)
        read = dio.read_label_map(path)
        assert read.dtype == np.int32
        np.testing.assert_array_equal(read, labels)

    def test_palette_png_shows_the_colours_of_its_labels(self, tmp_path: Path) -> None:
        labels = np.arange(200, dtype=np.int32).reshape(10, 20)
        dio.write_label_map(tmp_path / "x.png", labels)
        with Image.open(tmp_path / "x.png") as image:
            assert image.mode == "P"
            shown = np.array(image.convert("RGB"))
        np.testing.assert_array_equal(shown, dio.label_palette(200)[labels])

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_foreign_grey_png_of_few_bits_is_not_rescaled(self, tmp_path: Path, bits: int) -> None:
        labels = np.arange(16).reshape(4, 4) % (1 << bits)
        packed = np.packbits(
            (labels[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(bool).reshape(4, -1),
            axis=1,
        )
        body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, bits, 0, 0, 0, 0)), (b"IDAT", body)]
        data = b"\x89PNG\r\n\x1a\n"
        for name, content in [*chunks, (b"IEND", b"")]:
            crc = zlib.crc32(name + content)
            data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)
        (tmp_path / "x.png").write_bytes(data)
        np.testing.assert_array_equal(dio.read_label_map(tmp_path / "x.png"), labels)

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
    def test_foreign_palette_tiff(self, tmp_path: Path, compression: str) -> None:
        source = Image.fromarray(noise((9, 8, 3))).convert("P")
        source.save(tmp_path / "x.tif", compression=compression)
        np.testing.assert_array_equal(dio.read_label_map(tmp_path / "x.tif"), np.array(source))

    def test_negative_numbers_of_a_signed_tiff_are_kept(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "x.tif", np.array([[-1, 5]], np.int16))
        np.testing.assert_array_equal(dio.read_label_map(tmp_path / "x.tif"), [[-1, 5]])

    def test_what_is_no_label_map_is_refused(self, tmp_path: Path) -> None:
        Image.fromarray(noise((4, 4, 3))).save(tmp_path / "colour.png")
        Image.fromarray(noise((4, 4))).save(tmp_path / "lossy.jpg")
        tifffile.imwrite(tmp_path / "float.tif", np.zeros((4, 4), np.float32))
        tifffile.imwrite(tmp_path / "bands.tif", noise((4, 4, 3)), photometric="rgb")
        tifffile.imwrite(tmp_path / "huge.tif", np.full((4, 4), 1 << 31, np.uint32))
        for name, reason in (
            ("colour.png", "colour image"),
            ("lossy.jpg", "JPEG"),
            ("float.tif", "float32"),
            ("bands.tif", "one band"),
            ("huge.tif", "beyond"),
        ):
            with pytest.raises(ValueError, match=reason):
                dio.read_label_map(tmp_path / name)

    def test_what_cannot_be_written_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x.png"
        with pytest.raises(TypeError, match="float64"):
            dio.write_label_map(path, np.zeros((2, 2)))
        with pytest.raises(ValueError, match="-2 to 0"):
            dio.write_label_map(path, np.array([[0, -2]]))
        with pytest.raises(ValueError, match=r"use '.tif'"):
            dio.write_label_map(path, np.array([[0, 65536]]))
        with pytest.raises(ValueError, match=r"use '.png'"):
            dio.write_label_map(tmp_path / "x.jpg", np.array([[0, 1]]))
        with pytest.raises(ValueError, match="shape"):
            dio.write_label_map(path, np.zeros((2, 2, 1), int))
        assert list(tmp_path.iterdir()) == []


class TestPalette:
    def test_colour_of_a_label_does_not_depend_on_their_number(self) -> None:
        np.testing.assert_array_equal(dio.label_palette(5), dio.label_palette(300)[:5])
        assert dio.label_palette(0).shape == (0, 3)

    def test_colours_are_fixed(self) -> None:
        # They are in users' files and screenshots: a change is a change of the format.
        want = [[76, 157, 235], [255, 175, 163], [0, 138, 93], [169, 129, 223]]
        assert dio.label_palette(4).tolist() == want

    def test_colours_differ_and_are_not_dark(self) -> None:
        palette = dio.label_palette(256).astype(int)
        assert len(np.unique(palette, axis=0)) == 256
        assert palette.max(axis=1).min() > 90
        near = np.abs(np.diff(palette, axis=0)).sum(axis=1)
        assert near.min() > 100


class TestDisplay:
    def test_uint8_is_shown_as_it_is(self) -> None:
        image = noise((4, 5, 6))
        np.testing.assert_array_equal(dio.display_rgb(image), image[..., :3])
        for channels in (1, 2):
            shown = dio.display_rgb(image[..., :channels])
            np.testing.assert_array_equal(shown, np.repeat(image[..., :1], 3, axis=-1))

    @pytest.mark.parametrize("dtype", [np.uint16, np.float32])
    def test_others_are_stretched_without_regard_to_outliers(self, dtype: Any) -> None:
        image = np.tile(np.arange(1000, dtype=dtype), (10, 1))[..., None]
        image[0, 0], image[0, 1] = 65000, 0
        shown = dio.display_rgb(image)[5, :, 0].astype(int)
        assert shown.dtype == int
        assert shown[:15].max() == 0
        assert shown[-15:].min() == 255
        assert abs(shown[500] - 128) < 3
        assert (np.diff(shown) >= 0).all()

    @pytest.mark.parametrize("value", [0.0, 7.5, -3.0e38])
    def test_constant_is_mid_grey(self, value: float) -> None:
        assert (dio.display_rgb(np.full((3, 4, 1), value, np.float32)) == 128).all()

    def test_few_points_on_a_constant_ground_are_seen(self) -> None:
        image = np.zeros((100, 100, 1), np.uint16)
        image[50, 50] = 9
        shown = dio.display_rgb(image)
        assert shown[50, 50].tolist() == [255, 255, 255]
        assert shown[0, 0].tolist() == [0, 0, 0]


class TestWholeFile:
    def test_file_appears_whole_in_folders_that_are_made(self, tmp_path: Path) -> None:
        target = tmp_path / "a" / "b" / "x.txt"
        with dio.whole_file(target) as temporary:
            assert temporary.parent == target.parent
            assert temporary.name.startswith(".")
            assert temporary.suffix == ".txt"
            temporary.write_text("whole")
            assert not target.exists()
        assert target.read_text() == "whole"
        assert list(target.parent.iterdir()) == [target]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
    def test_any_exception_leaves_the_old_file_and_nothing_else(
        self, tmp_path: Path, error: type[BaseException]
    ) -> None:
        target = tmp_path / "x.txt"
        target.write_text("old")
        with pytest.raises(error), dio.whole_file(target) as temporary:
            temporary.write_text("half")
            raise error
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]

    def test_name_of_the_longest_length_can_be_written(self, tmp_path: Path) -> None:
        target = tmp_path / ("x" * 251 + ".txt")
        with dio.whole_file(target) as temporary:
            temporary.write_text("whole")
        assert target.read_text() == "whole"

    def test_folder_that_cannot_be_used_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(OSError) as caught:
                dio.write_json(folder / "x.json", {})
            assert str(caught.value).startswith(f"{folder}: cannot be made or used as a folder")
            assert "\n" not in str(caught.value)

    def test_failed_write_names_the_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError) as caught:
            dio.write_json(tmp_path / "x.json", {})
        assert str(caught.value) == f"{tmp_path}: cannot write x.json there: No space left on device"
        assert caught.value.errno == 28

    def test_files_get_ordinary_permissions(self, tmp_path: Path) -> None:
        dio.write_json(tmp_path / "x.json", {})
        (tmp_path / "plain").write_text("")
        assert (tmp_path / "x.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


class TestWriting:
    def test_images_come_back(self, tmp_path: Path) -> None:
        for shape in ((4, 5, 3), (4, 5)):
            image = noise(shape)
            dio.write_image(tmp_path / "x.png", image)
            np.testing.assert_array_equal(dio.read_image(tmp_path / "x.png").squeeze(), image)

    def test_other_arrays_and_suffixes_are_refused(self, tmp_path: Path) -> None:
        images: list[Any] = [np.zeros((4, 5, 3)), noise((4, 5, 4)), noise((0, 5, 3))]
        for image in images:
            with pytest.raises(ValueError, match="want uint8"):
                dio.write_image(tmp_path / "x.png", image)
        with pytest.raises(ValueError, match="PNG"):
            dio.write_image(tmp_path / "x.jpg", noise((4, 5, 3)))

    def test_json_is_strict_and_utf8(self, tmp_path: Path) -> None:
        dio.write_json(tmp_path / "x.json", {"name": "zażółć", "odd": "\udcff"})
        text = (tmp_path / "x.json").read_text(encoding="utf-8")
        assert "zażółć" in text
        assert json.loads(text) == {"name": "zażółć", "odd": "\udcff"}
        with pytest.raises(ValueError, match=r"x\.json: cannot be written as JSON"):
            dio.write_json(tmp_path / "x.json", {"loss": float("nan")})
        with pytest.raises(TypeError, match="cannot be written as JSON"):
            dio.write_json(tmp_path / "x.json", {"loss": object()})
        assert (tmp_path / "x.json").read_text(encoding="utf-8") == text


def test_modules_import_without_heavy_libraries() -> None:
    heavy = {"torch", "PIL", "tifffile", "skimage", "scipy", "pydantic"}
    code = (
        "import sys, dynamicseg.io, dynamicseg.inputs, dynamicseg.segmentation;"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
