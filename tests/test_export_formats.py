from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from dynamicseg.export.formats import FORMATS, ExportOptions, checked_format, checked_options


def test_every_option_is_taken_by_some_format_and_no_format_takes_others() -> None:
    known = {field.name for field in fields(ExportOptions)}
    assert known == frozenset().union(*(kind.options for kind in FORMATS.values()))


NOT_TAKEN: list[tuple[str, dict[str, Any], str]] = [
    ("onnx", {"workspace": 1.0}, "ONNX takes no workspace; only tensorrt and tensorrt-rtx do"),
    ("onnx", {"refit": True}, "ONNX takes no refit; only tensorrt and tensorrt-rtx do"),
    ("tensorrt", {"opset": 18}, "TensorRT takes no opset; only onnx does"),
    ("tensorrt-rtx", {"timing_cache": "cache"}, "TensorRT-RTX takes no timing_cache; only tensorrt does"),
    ("tensorrt-rtx", {"version_compatible": True}, "TensorRT-RTX takes no version_compatible; only tensorrt does"),
    ("tensorrt", {"compute_capabilities": ("8.6",)}, "TensorRT takes no compute_capabilities; only tensorrt-rtx does"),
]


@pytest.mark.parametrize(("name", "options", "message"), NOT_TAKEN)
def test_an_option_that_a_format_does_not_take_is_refused_with_those_that_do(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        checked_options(name, options)


def test_an_option_at_its_default_is_not_given() -> None:
    assert checked_options("onnx", {"workspace": None, "refit": False}) == ExportOptions()


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("onnx", {"precision": "fp61"}, "did you mean fp16"),
    ("onnx", {"precision": "int8"}, "int8 wants calibration"),
    ("onnx", {"calibration": "photos"}, "calibration is for int8, not for fp32"),
    ("onnx", {"activations": "int8"}, "activations are chosen for int8, not for fp32"),
    ("onnx", {"precision": "int8", "calibration": "photos", "activations": "int4"}, "choose from uint8, int8"),
    ("onnx", {"min_agreement": 99.9}, "min_agreement wants 0 to 1, not 99.9"),
    ("onnx", {"opset": 9}, "opset wants 18 to 22, not 9"),
    ("onnx", {"dynamic": False}, "size is wanted"),
    ("onnx", {"size": (321, 481)}, "takes any size"),
    ("onnx", {"batch": 4}, "takes any size and batch"),
    ("onnx", {"dynamic": False, "size": (0, 481)}, "size wants sides of 1 to 65536, not 0x481"),
    ("tensorrt", {"dynamic": False, "size": (8, 8), "max_size": (9, 9)}, "are for dynamic sizes"),
    ("tensorrt", {"batch": 0}, "batch wants 1 to 4096, not 0"),
    ("tensorrt", {"hardware_compatibility": "all"}, "choose from ampere\\+, same-compute-capability"),
    ("tensorrt", {"optimization_level": 6}, "optimization_level wants 0 to 5, not 6"),
    ("tensorrt", {"refit_from": "old.engine", "size": (8, 8)}, "refit_from keeps the sizes"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_options_out_of_range_or_at_odds_are_refused_in_one_line(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        checked_options(name, options)
    assert "\n" not in str(caught.value)


def test_no_option_of_this_name() -> None:
    with pytest.raises(TypeError, match="no option is named 'half': choose from precision"):
        checked_options("onnx", {"half": True})


@pytest.mark.parametrize(
    ("name", "nearest"), [("tensort", "tensorrt"), ("TensorRT_RTX", "tensorrt-rtx"), ("onx", "onnx")]
)
def test_a_wrong_format_suggests_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {nearest}\\?"):
        checked_format(name, Path("m.onnx"))


def test_the_suffix_tells_the_format_where_it_can() -> None:
    assert checked_format(None, Path("m.onnx")) == "onnx"
    with pytest.raises(
        ValueError, match="does not say which format is wanted: choose --to tensorrt or --to tensorrt-rtx"
    ):
        checked_format(None, Path("m.engine"))
    with pytest.raises(ValueError, match=r"files of TensorRT end in \.engine"):
        checked_format("tensorrt", Path("m.onnx"))
