"""Features from ONNX files: tiny ones, generated here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dynamicseg as ds
from dynamicseg.features.backbone import feature_maps, opened_backbone
from dynamicseg.features.options import FeatureOptions, feature_options

IMAGE = np.random.default_rng(0).random((20, 30, 3), np.float32)
ANY = ("n", 3, "h", "w")


def saved(
    path: Path,
    *,
    shape: Sequence[Any] = ANY,
    kind: int = TensorProto.FLOAT,
    nodes: Sequence[onnx.NodeProto] = (),
    more: Sequence[tuple[str, int, Sequence[Any]]] = (),
) -> str:
    """A network of means over 4x4 pixels, ``fine``, and over 8x8, ``coarse``."""
    pools = [
        helper.make_node("AveragePool", ["x"], [name], kernel_shape=[size, size], strides=[size, size])
        for name, size in (("fine", 4), ("coarse", 8))
        if kind == TensorProto.FLOAT and len(shape) == 4
    ]
    outputs = [*((node.output[0], TensorProto.FLOAT, [1, 3, None, None]) for node in pools), *more]
    graph = helper.make_graph(
        [*pools, *nodes],
        "backbone",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(*output) for output in outputs],
        [numpy_helper.from_array(np.array([2, 3], np.int64), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return str(path)


def options(source: str, **chosen: Any) -> FeatureOptions:
    found = feature_options(source, **{"outputs": ["fine"], **chosen})
    assert found is not None
    return found


def test_maps_are_the_outputs_that_were_named(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.onnx")
    maps = feature_maps(IMAGE, options(source, outputs=["coarse", "fine"]))
    assert [one.shape for one in maps] == [(3, 4, 8), (3, 8, 16)]  # of 40x60, as multiples of 32: 32x64


def test_red_green_and_blue_less_mean_over_std(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.onnx")
    image = np.full((16, 16, 3), (0.1, 0.5, 0.9), np.float32)
    chosen = options(source, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25), multiple=8)
    found = feature_maps(image, chosen)[0]
    np.testing.assert_allclose(found.mean(axis=(1, 2)), [0.0, 0.6, 2.4], atol=1e-5)


def test_a_size_that_the_file_fixes_is_the_size_that_it_sees(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.onnx", shape=(1, 3, 48, 24))
    assert feature_maps(IMAGE, options(source))[0].shape == (3, 12, 6)


def test_without_names_the_outputs_are_listed(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"has outputs to choose from; .*with feature_outputs, of: fine \[1, 3, "):
        ds.Segmenter(features=source)


def test_regions_use_the_features_of_a_file(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.onnx")
    chosen: dict[str, Any] = {"features": source, "feature_outputs": ["fine", "coarse"], "max_steps": 1}
    found = ds.segment((IMAGE * 255).astype(np.uint8), **chosen)
    assert found.labels.shape == (20, 30)
    np.testing.assert_array_equal(found.labels, ds.segment((IMAGE * 255).astype(np.uint8), **chosen).labels)


@pytest.mark.parametrize(
    ("made", "chosen", "message"),
    [
        ({}, {"outputs": ["fin"]}, r"has no output fin; name its feature maps .* of: fine \["),
        ({"shape": ("n", 4, "h", "w")}, {}, r"takes x tensor\(float\) \['n', 4, .*features want one input"),
        ({"shape": (2, 3, "h", "w")}, {}, r"features want one input, tensor\(float\) \[1, 3, height, width\]"),
        (
            {
                "shape": ("n", "h", "w"),
                "nodes": [helper.make_node("Relu", ["x"], ["fine"])],
                "more": [("fine", TensorProto.FLOAT, ["n", "h", "w"])],
            },
            {},
            "features want one input",
        ),
        (
            {
                "kind": TensorProto.DOUBLE,
                "nodes": [helper.make_node("Relu", ["x"], ["fine"])],
                "more": [("fine", TensorProto.DOUBLE, ANY)],
            },
            {},
            r"takes x tensor\(double\)",
        ),
        (
            {
                "nodes": [helper.make_node("ReduceMean", ["x", "axes"], ["flat"], keepdims=0)],
                "more": [("flat", TensorProto.FLOAT, ["n", 3])],
            },
            {"outputs": ["flat"]},
            r"its output flat is tensor\(float\) \['n', 3\]; want a float map",
        ),
    ],
)
def test_what_is_no_backbone_is_refused_in_one_line(
    tmp_path: Path, made: dict[str, Any], chosen: dict[str, Any], message: str
) -> None:
    source = saved(tmp_path / "m.onnx", **made)
    with pytest.raises(ValueError, match=message) as error:
        feature_maps(IMAGE, options(source, **chosen))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(source)


def test_a_size_that_does_not_suit_the_network_is_said_with_the_option_for_it(tmp_path: Path) -> None:
    # Enlarged again and added to the image, means fit only where the sides are multiples of 8.
    doubled = [
        helper.make_node("Resize", ["coarse", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Add", ["x", "large"], ["sum"]),
    ]
    scales = helper.make_node(
        "Constant", [], ["scales"], value=numpy_helper.from_array(np.array([1, 1, 8, 8], np.float32))
    )
    source = saved(tmp_path / "m.onnx", nodes=[scales, *doubled], more=[("sum", TensorProto.FLOAT, ["n", 3, "h", "w"])])
    assert feature_maps(IMAGE, options(source, outputs=["sum"], multiple=8))[0].shape == (3, 40, 64)
    with pytest.raises(ValueError, match=r"failed on an image of 40x60 .*choose another feature_multiple") as error:
        feature_maps(IMAGE, options(source, outputs=["sum"], multiple=1))
    assert "\n" not in str(error.value)


def test_maps_with_nan_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Sqrt", ["fine"], ["root"])]
    source = saved(tmp_path / "m.onnx", nodes=nodes, more=[("root", TensorProto.FLOAT, [1, 3, None, None])])
    with pytest.raises(ValueError, match="output root holds NaN or infinity"):
        feature_maps(IMAGE, options(source, outputs=["root"]))


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07"])
def test_what_is_no_onnx_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.onnx") as error:
        feature_maps(IMAGE, options(str(path)))
    assert "\n" not in str(error.value)


def test_no_bytes_make_it_a_file_of_another_format(tmp_path: Path) -> None:
    source = Path(saved(tmp_path / "m.onnx"))
    # A name of its maker, where ONNX Runtime looks for that of its own format.
    source.write_bytes(b"\x12\x84\x80\x00ORTM" + source.read_bytes())
    (fine,) = feature_maps(IMAGE, options(str(source), outputs=["fine"]))
    assert fine.ndim == 3


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"m\.onnx: no such file"):
        ds.Segmenter(features=tmp_path / "m.onnx", feature_outputs=["fine"])


def test_a_file_that_changes_meanwhile_is_not_mixed_with_what_it_was(tmp_path: Path) -> None:
    source = saved(tmp_path / "m.onnx")
    segmenter = ds.Segmenter(features=source, feature_outputs=["fine"], max_steps=1)
    opened_backbone.cache_clear()
    saved(tmp_path / "m.onnx", more=[("x", TensorProto.FLOAT, ANY)])
    with pytest.raises(ValueError, match="has changed since features were first taken from it"):
        segmenter.segment((IMAGE * 255).astype(np.uint8))
