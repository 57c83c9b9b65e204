"""ONNX files that are damaged, foreign or dangerous: one clear error, and ONNX Runtime never sees those."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_models import description

from dynamicseg._files import Refusal
from dynamicseg.inference import onnx_file
from dynamicseg.inference.onnx_file import read_onnx
from dynamicseg.inference.protobuf import fields
from dynamicseg.predict import load


@pytest.fixture
def never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime must not see the file."""

    def session(*_: Any, **__: Any) -> None:
        raise AssertionError("ONNX Runtime was given the file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError, match=r"m\.onnx: ") as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert len(text.splitlines()) == 1
    return text


def test_what_is_read_is_what_the_file_says(tmp_path: Path) -> None:
    found = read_onnx(onnx_models.save(tmp_path / "m.onnx", bands=4, labels=7, depth=3, width=6, size=(8, 9), batch=2))
    assert found.shape == (2, 8, 9, 4)
    assert (found.contract.bands, found.contract.label_count, found.contract.radius) == (4, 7, 3)
    assert found.operators == {"Cast": 2, "Sub": 1, "Transpose": 1, "Conv": 4, "Relu": 3, "ArgMax": 1}
    assert found.content == (tmp_path / "m.onnx").read_bytes()


# ---- dangerous -------------------------------------------------------------------------------------------------------


def external_weights(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"


def tensor_in_a_node(model: onnx.ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    model.graph.node.append(helper.make_node("Cast", ["image"], ["c"], to=1, value=tensor))


def location_without_saying_so(model: onnx.ModelProto) -> None:
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "weights.bin"


def custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("EPContext", [], ["c"], domain="com.microsoft", ep_cache_context="/x"))


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("RandomNormal", [], ["c"], shape=[1 << 40]))


def endless_loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["c"], body=body))


def hidden_graph(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "body", [], [])))


def function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("", "Cast", ["a"], ["b"], [node], model.opset_import))


def sparse_weights(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(1)


def enormous_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].dims[0] = 1 << 40


def text_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(data_type=TensorProto.STRING, dims=[1], string_data=[b"text"]))


def absurd_padding(model: onnx.ModelProto) -> None:
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    (pads,) = (attribute for attribute in convolution.attribute if attribute.name == "pads")
    pads.ints[0] = 1 << 30


def absurd_kernel(model: onnx.ModelProto) -> None:
    # Of int8, libraries take memory for each of its pixels at each pixel of the image.
    convolution_of("n", n=np.zeros((4, 3, 1, 1000), np.float32))(model)


def two_graphs(model: onnx.ModelProto) -> bytes:
    content: bytes = model.SerializeToString() + onnx.ModelProto(graph=model.graph).SerializeToString()
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (external_weights, "keeps weights in other files"),
        (tensor_in_a_node, "has a tensor inside Cast"),
        (location_without_saying_so, "keeps weights in other files"),
        (custom_operator, "uses the operator 'com.microsoft.EPContext'"),
        (unknown_operator, "uses the operator 'RandomNormal'"),
        (endless_loop, "uses the operator 'Loop'"),
        (hidden_graph, "has a graph inside Cast"),
        (function, "holds functions"),
        (sparse_weights, "holds sparse weights"),
        (enormous_tensor, "holds more or less than it says"),
        (text_tensor, "a tensor of type 0"),
        (absurd_padding, "has a Conv of absurd shape"),
        (absurd_kernel, "has a Conv of absurd shape"),
        (two_graphs, "is no ONNX file: it holds 2 graphs"),
    ],
)
@pytest.mark.usefixtures("never_run")
def test_what_no_exported_model_has_is_refused(
    change: Callable[[onnx.ModelProto], bytes | None], words: str, tmp_path: Path
) -> None:
    model = onnx_models.model()
    (tmp_path / "m.onnx").write_bytes(change(model) or model.SerializeToString())
    assert words in refusal(tmp_path / "m.onnx")


# ---- small files that ask for any amount of memory -------------------------------------------------------------------

SIDE = 1 << 20


def with_nodes(*nodes: onnx.NodeProto, **constants: Any) -> Callable[[onnx.ModelProto], None]:
    """Puts operators between the image and the labels, in front of all others."""

    def change(model: onnx.ModelProto) -> None:
        for position, node in enumerate(nodes):
            model.graph.node.insert(position, node)
        for name, values in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))

    return change


def node(operator: str, *inputs: str, to: str = "made", **attributes: Any) -> onnx.NodeProto:
    """An operator whose result is called ``to``."""
    return helper.make_node(operator, inputs, [to], **attributes)


def convolution_of(weights: str, n: Any = 0, **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    """Puts another convolution in place of the first one."""

    def change(model: onnx.ModelProto) -> None:
        first = next(node for node in model.graph.node if node.op_type == "Conv")
        first.CopyFrom(node("Conv", first.input[0], weights, to=first.output[0], **attributes))
        with_nodes(n=n)(model)

    return change


ROWS = (node("Shape", "image", to="size", start=1, end=2), node("Squeeze", "size", to="rows"))
NUMBERS = (*ROWS, node("Range", "zero", "rows", "one", to="numbers"))
ONE = {"zero": np.int64(0), "one": np.int64(1)}


@pytest.mark.parametrize(
    ("change", "operator"),
    [
        (with_nodes(node("ConstantOfShape", "n"), n=np.array([SIDE, SIDE])), "'ConstantOfShape'"),
        (with_nodes(node("Tile", "image", "n"), n=np.array([1, SIDE, SIDE, 1])), "'Tile'"),
        (with_nodes(node("Pad", "image", "n"), n=np.array([0, SIDE, SIDE, 0] * 2)), "Pad"),
        (with_nodes(node("Reshape", "image", "n"), n=np.array([-1, 1])), "'Reshape'"),
        (with_nodes(node("Gather", "image", "n"), n=np.zeros((SIDE,), np.int64)), "'Gather'"),
        (with_nodes(node("OneHot", "image", "n", "n"), n=np.array([SIDE, 0])), "'OneHot'"),
        (with_nodes(node("Range", "zero", "n", "one"), n=np.int64(1 << 40), **ONE), "Range"),
        (with_nodes(*ROWS, node("Range", "zero", "rows", "n"), n=np.float32(1e-9), **ONE), "Range"),
        (with_nodes(*ROWS, node("Mul", "rows", "rows", to="n"), node("Range", "zero", "n", "one"), **ONE), "Range"),
        (with_nodes(node("Expand", "n", "n"), n=np.array([SIDE, SIDE])), "Expand"),
        (with_nodes(helper.make_node("Cast", ["image"], ["n"], to=TensorProto.STRING)), "Cast"),
        (with_nodes(node("Shape", "image", to="n"), node("Expand", "w", "n"), w=np.ones((64, 1, 1, 1, 1))), "Expand"),
        (
            with_nodes(*ROWS, node("Concat", "size", "size", to="n", axis=0), node("Expand", "one", "n"), **ONE),
            "Expand",
        ),
        (
            with_nodes(
                *NUMBERS,
                node("Unsqueeze", "numbers", "last", to="a"),
                node("Unsqueeze", "numbers", "zero", to="b"),
                node("Mul", "a", "b"),
                last=np.array([1]),
                **ONE,
            ),
            "Mul",
        ),
        (with_nodes(node("Resize", "image", "", "n"), n=np.array([1, 1e4, 1e4, 1], np.float32)), "Resize"),
        (with_nodes(node("Resize", "image", "", "", "n"), n=np.array([1, SIDE, SIDE, 1])), "Resize"),
        (with_nodes(node("Concat", *["image"] * 999, axis=0)), "Concat"),
        (with_nodes(node("Concat", *["image"] * 999, axis=3)), "Concat"),
        (with_nodes(node("Add", "image", "n"), n=np.zeros((9, 1, 1, 1, 1), np.uint8)), "Add"),
        (convolution_of("n", n=np.zeros((99, 3, 1, 1), np.float32)), "Conv"),
        (convolution_of("w0", auto_pad="SAME_UPPER"), "Conv"),
        (convolution_of("w0", dilations=[-1, 1]), "Conv"),
        (with_nodes(node("Relu", "nowhere")), "Relu"),
        (with_nodes(node("Transpose", "image", perm=[0, 0, 0, 0])), "Transpose"),
        (with_nodes(node("ArgMax", "image", axis=-1)), "ArgMax"),
    ],
)
@pytest.mark.usefixtures("never_run")
def test_nothing_makes_more_of_an_image_than_a_model_does(
    change: Callable[[onnx.ModelProto], None], operator: str, tmp_path: Path
) -> None:
    model = onnx_models.model()
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    text = refusal(tmp_path / "m.onnx")
    assert f"uses {operator} " in text or f"uses the operator {operator}," in text
    assert text.endswith("export it again")


def more_layers(model: onnx.ModelProto) -> None:
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    for _ in range(3):
        model.graph.node.append(convolution)


def many_nodes(model: onnx.ModelProto) -> None:
    model.graph.node.extend(node("Relu", "x0", to=f"more{k}") for k in range(200))


def one_attribute_twice(model: onnx.ModelProto) -> None:
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    convolution.attribute.append(helper.make_attribute("pads", [SIDE] * 4))


def numbers_of_two_kinds(model: onnx.ModelProto) -> bytes:
    # Whoever takes the one number for a new beginning of the list sees less padding than ONNX Runtime.
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    (pads,) = (attribute for attribute in convolution.attribute if attribute.name == "pads")
    pads.ints.append(1)
    one, list_of_five = onnx.AttributeProto(i=1), onnx.AttributeProto(ints=[1] * 5)
    first, rest = onnx.AttributeProto(ints=[99]), onnx.AttributeProto(ints=[1] * 3)
    content: bytes = model.SerializeToString()
    assert content.count(list_of_five.SerializeToString()) == 1
    return content.replace(
        list_of_five.SerializeToString(), b"".join(part.SerializeToString() for part in (first, one, rest))
    )


def one_tensor_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (more_layers, "has more layers than its description says"),
        (many_nodes, "has more layers than its description says"),
        (one_attribute_twice, "has the attribute 'pads' of Conv twice"),
        (numbers_of_two_kinds, "uses Conv as no exported model does"),
        (one_tensor_twice, "has two tensors of the name 'grey'"),
    ],
)
@pytest.mark.usefixtures("never_run")
def test_graphs_unlike_their_description_are_refused(
    change: Callable[[onnx.ModelProto], bytes | None], words: str, tmp_path: Path
) -> None:
    model = onnx_models.model()
    (tmp_path / "m.onnx").write_bytes(change(model) or model.SerializeToString())
    assert words in refusal(tmp_path / "m.onnx")


@pytest.mark.usefixtures("never_run")
def test_a_fixed_size_that_no_machine_could_hold_is_refused(tmp_path: Path) -> None:
    path = onnx_models.save(tmp_path / "m.onnx", size=(SIDE, SIDE), batch=4)
    assert f"takes 4 images of {SIDE}x{SIDE} pixels at once" in refusal(path)


@pytest.mark.usefixtures("never_run")
def test_a_fixed_size_that_does_not_fit_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    # ONNX Runtime computes at the start what depends on nothing but the size, and here takes what the image would.
    path = onnx_models.save(tmp_path / "m.onnx", size=(1 << 15, 1 << 15), width=4096, depth=1)
    with pytest.raises(MemoryError) as caught:
        load(path, device="cpu")
    text = str(caught.value)
    assert text.startswith(f"{path}: the model takes 1 image of 32768x32768 pixels at once, about ")
    assert text.endswith(" GB are free on cpu: end other programs, or export it for less")
    assert len(text.splitlines()) == 1


# ---- foreign ---------------------------------------------------------------------------------------------------------


def without_description(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "x"


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def four_bands(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 4


def only_a_height(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 40


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_description, "is a foreign ONNX file"),
        (other_input, "wants one input named image, has x"),
        (second_output, "wants one output named labels, has labels, more"),
        (float_input, "has an input image of float32 of 4 axes, not uint8 of 4"),
        (four_bands, "takes images of 4 bands, but its description says 3"),
        (only_a_height, "fixes only one of height and width"),
    ],
)
@pytest.mark.usefixtures("never_run")
def test_files_that_export_has_not_written_are_refused(
    change: Callable[[onnx.ModelProto], None], words: str, tmp_path: Path
) -> None:
    model = onnx_models.model()
    change(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert words in refusal(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ("{", "it is no JSON"),
        ("[]", "it is no JSON object"),
        ("[" * 100_000, "it is no JSON"),
        (json.dumps(description(format_version=2)), "is of format version 2, this DynamicSeg reads 1: install a newer"),
        (json.dumps(description(format_version=0)), "is of format version 0, this DynamicSeg reads 1: export it again"),
        (json.dumps(description(format_version=True)), "format_version is True"),
        (json.dumps(description(bands=0)), "bands is 0, not a whole number of 1 to 4096"),
        (json.dumps(description(label_count=6)), "palette does not hold 6 colours"),
        (json.dumps(description(palette=[[0, 0, 256]] * 5)), "palette holds [0, 0, 256]"),
        (json.dumps(description(network=None)), "it has no network"),
        (json.dumps(description(receptive_field=1e9)), "receptive_field is 1000000000.0"),
        ("{}", "format_version is None"),
    ],
)
@pytest.mark.usefixtures("never_run")
def test_a_damaged_description_is_named(metadata: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(onnx_models.save(tmp_path / "m.onnx", metadata=metadata))


def test_an_operator_set_that_is_too_new_is_one_line(tmp_path: Path) -> None:
    model = onnx_models.model()
    model.opset_import[0].version = 999
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert "cannot be run by ONNX Runtime" in refusal(tmp_path / "m.onnx")


def test_no_bytes_make_it_a_file_of_another_format(tmp_path: Path) -> None:
    # A name of its maker, where ONNX Runtime looks for that of its own format.
    begins = b"\x12\x84\x80\x00ORTM"
    (tmp_path / "m.onnx").write_bytes(begins + onnx_models.model().SerializeToString())
    assert load(tmp_path / "m.onnx").predict(np.zeros((4, 5, 3), np.uint8)).labels.shape == (4, 5)


# ---- damaged ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"hello, world", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04" + bytes(40)])
@pytest.mark.usefixtures("never_run")
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    assert "is no ONNX file" in refusal(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"")
    assert "is empty (0 bytes)" in refusal(tmp_path / "m.onnx")


@pytest.mark.usefixtures("never_run")
def test_a_file_that_is_cut_short_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = onnx_models.save(tmp_path / "m.onnx").read_bytes()
    # Without its last bytes, the versions of the operators, it may still be whole for all that is looked at here.
    end = whole.rindex(b'"export"')
    for length in range(1, end, 97):
        (tmp_path / "m.onnx").write_bytes(whole[:length])
        refusal(tmp_path / "m.onnx")


@pytest.mark.usefixtures("never_run")
def test_files_of_absurd_size_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_BYTES", 1000)
    assert "has more than 1000 bytes" in refusal(onnx_models.save(tmp_path / "m.onnx"))
    monkeypatch.undo()
    monkeypatch.setattr(onnx_file, "_MAX_PARTS", 2)
    assert "has far more parts" in refusal(onnx_models.save(tmp_path / "m.onnx"))


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_are_fields_or_refused(content: bytes) -> None:
    try:
        found = list(fields(memoryview(content)))
    except Refusal:
        return
    assert sum(1 + (len(value) if isinstance(value, memoryview) else 0) for *_, value in found) <= len(content)


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_damaged_files_are_refused_without_crash_hang_or_memory(kind: str, tmp_path: Path) -> None:
    if kind == "onnx":
        onnx_models.save(tmp_path / "m.onnx")
    else:
        from test_trained_model import a_model

        a_model().save(tmp_path / "m.safetensors")
    script = Path(__file__).with_name("fuzz_models.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / f"m.{kind}"), "0", "400"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    refused, used = map(int, done.stdout.split())  # and ONNX Runtime has printed nothing
    assert refused > 200
    assert used > 0
