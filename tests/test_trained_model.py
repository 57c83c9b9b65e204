from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dynamicseg.inference.contract import METADATA_KEY
from dynamicseg.io import label_palette
from dynamicseg.model import SegmentationNetwork
from dynamicseg.model_description import ModelDescription, NetworkOptions, parse_description
from dynamicseg.trained_model import TrainedModel


def a_model(bands: int = 3, labels: int = 5, **options: Any) -> TrainedModel:
    network_options = NetworkOptions(**{"width": 6, "depth": 2, "order": "norm_relu", **options})
    torch.manual_seed(1)
    network = SegmentationNetwork(bands, labels, network_options)
    for _ in range(3):  # statistics other than those of a new network
        network(torch.rand(2, bands, 20, 24))
    description = ModelDescription(
        package_version="1.2.3",
        created_with={"torch": "9"},
        bands=bands,
        label_count=labels,
        palette=tuple(tuple(colour) for colour in label_palette(labels).tolist()),
        label_areas=(1.0,) + (0.0,) * (labels - 1),
        network=network_options,
        receptive_field=network_options.receptive_field,
        training={"seed": 3},
    )
    return TrainedModel(network.eval().requires_grad_(False), description)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    a_model().save(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


ARCHITECTURES: list[dict[str, Any]] = [
    {"order": "relu_norm"},
    {"order": "norm_relu", "depth": 3, "dilation_growth": 2},
    {"stride": 2},
    {"stride": 4, "depth": 3, "dilation_growth": 2},
    {"coordinates": True},
    {"coordinates": True, "stride": 2},
]


@pytest.mark.parametrize("options", ARCHITECTURES)
def test_a_saved_model_comes_back_as_it_was(options: dict[str, Any], tmp_path: Path) -> None:
    model = a_model(**options)
    path = tmp_path / "deep" / "m.safetensors"
    model.save(path)
    again = TrainedModel.load(path)
    assert again.description == model.description
    assert not again.network.training
    assert not any(parameter.requires_grad for parameter in again.network.parameters())
    image = torch.rand(2, 3, 33, 21)
    assert torch.equal(again.network(image), model.network(image))
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("options", ARCHITECTURES)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (13, 22), (32, 24)])
def test_responses_have_the_size_of_the_image(options: dict[str, Any], size: tuple[int, int]) -> None:
    assert a_model(**options).network(torch.rand(1, 3, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize("options", [options for options in ARCHITECTURES if not options.get("coordinates")])
def test_nothing_beyond_the_receptive_field_has_influence(options: dict[str, Any]) -> None:
    network = a_model(**options).network
    radius, stride = network.options.receptive_field, network.options.stride
    assert radius is not None
    size = 2 * radius + 4 * stride + 1
    image = torch.rand(1, 3, size, size, requires_grad=True)
    for centre in range(size // 2, size // 2 + stride):
        (gradient,) = torch.autograd.grad(network(image)[0, :, centre, centre].sum(), image)
        rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
        assert int(rows.min()) >= centre - radius
        assert int(rows.max()) <= centre + radius


def test_with_coordinates_the_whole_image_has_influence() -> None:
    options = NetworkOptions(width=4, depth=1, coordinates=True)
    assert options.receptive_field is None
    planes = SegmentationNetwork(1, 2, options).input_planes(torch.zeros(2, 1, 4, 2))
    assert planes[1, 1, :, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert planes[0, 2, 3].tolist() == [-0.5, 0.5]


def test_predictions_are_the_largest_responses_of_images_scaled_by_their_type() -> None:
    model = a_model()
    image = np.random.default_rng(0).integers(0, 256, (17, 12, 3), np.uint8)
    labels = model.predict_array(image)
    assert labels.dtype == np.int32
    assert labels.shape == (17, 12)
    responses = model.network(torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None])
    assert np.array_equal(labels, responses.argmax(1)[0])
    assert np.array_equal(model.predict_array(image / 255), labels)
    assert np.array_equal(model.predict_array(image.astype(np.uint16) * 257), labels)
    grey = a_model(bands=1)
    assert np.array_equal(grey.predict_array(image[..., 0]), grey.predict_array(image[..., :1]))


def test_images_that_do_not_fit_are_refused() -> None:
    model = a_model()
    with pytest.raises(ValueError, match="the image has 1 band, the model was trained on 3"):
        model.predict_array(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="NaN"):
        model.predict_array(np.full((4, 4, 3), np.nan))
    with pytest.raises(TypeError, match="int64"):
        model.predict_array(np.zeros((4, 4, 3), np.int64))


def test_the_description_is_json_in_the_header(saved: Path) -> None:
    content = saved.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    description = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][METADATA_KEY])
    assert description["label_count"] == 5
    assert description["network"]["order"] == "norm_relu"
    assert description["receptive_field"] == 2
    assert description["input"] == "uint8 / 255"


def test_a_model_is_saved_whole_or_not_at_all(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        a_model(labels=7).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"m\.pt: models are saved as safetensors; end the name in \.safetensors"):
        a_model().save(tmp_path / "m.pt")
    assert not os.listdir(tmp_path)


# ---- files that are no models ----------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The file with a changed description."""
    description = json.loads(a_model().description.model_dump_json())
    change(description)
    save_file(load_file(path), path, metadata={METADATA_KEY: json.dumps(description)})


def refused(path: Path) -> str:
    """Why the file is not taken: one line that begins with its name."""
    with pytest.raises(ValueError) as caught:
        TrainedModel.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text


def test_newer_and_older_formats_are_refused(saved: Path) -> None:
    rewritten(saved, lambda description: description.update(format_version=2))
    assert "its format is version 2, this DynamicSeg reads 1: install a newer DynamicSeg" in refused(saved)
    rewritten(saved, lambda description: description.update(format_version=0))
    assert "train it again" in refused(saved)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(label_count=4), "palette has 5 entries for 4 labels"),
        (lambda d: d.update(label_count=10**9), "label_count: Input should be less than or equal to 4096"),
        (lambda d: d["network"].update(width=7), "layers.0.weight is F32"),
        (lambda d: (d["network"].update(width=4096, depth=64), d.update(receptive_field=64)), "(372 such differences)"),
        (lambda d: d["network"].update(depth=60, dilation_growth=4), "means dilations above 256"),
        (lambda d: (d["network"].update(depth=3), d.update(receptive_field=3)), "layers.10.bias is missing"),
        (lambda d: d["network"].update(order="sideways"), "network.order"),
        (lambda d: d["network"].update(extra=1), "network.extra"),
        (lambda d: d.update(receptive_field=0), "receptive_field is 0"),
        (lambda d: d.update(bands=4), "layers.0.weight is F32 [6, 3, 3, 3], not F32 [6, 4, 3, 3]"),
        (lambda d: d.pop("format_version"), "format_version: Field required"),
    ],
)
def test_a_description_that_lies_is_refused(change: Callable[[dict[str, Any]], None], reason: str, saved: Path) -> None:
    rewritten(saved, change)
    assert reason in refused(saved)


def test_foreign_files_are_refused(tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"")
    assert "is empty" in refused(path)
    path.write_bytes(b"PK\x03\x04 something else entirely" * 10)
    assert "is no safetensors file" in refused(path)
    path.write_bytes(b"abc")
    assert "is no safetensors file" in refused(path)
    save_file({"a": torch.zeros(3)}, path)
    assert "its header lacks a description" in refused(path)
    save_file({"a": torch.zeros(3)}, path, metadata={METADATA_KEY: "[" * 100_000})
    assert "its description is damaged" in refused(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        TrainedModel.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    "tensor", [torch.full((5,), math.nan), torch.full((5,), -1.0), torch.zeros(5, dtype=torch.float64), torch.zeros(4)]
)
def test_tensors_that_no_network_has_are_refused(tensor: torch.Tensor, saved: Path) -> None:
    tensors = load_file(saved) | {"layers.7.running_var": tensor}
    save_file(tensors, saved, metadata={METADATA_KEY: a_model().description.model_dump_json()})
    assert "layers.7.running_var" in refused(saved)


def test_an_enormous_header_is_refused_before_it_is_read(saved: Path) -> None:
    content = saved.read_bytes()
    for size in (2**63, 2**40, len(content)):
        saved.write_bytes(struct.pack("<Q", size) + content[8:])
        assert "is no safetensors file, or it is cut short" in refused(saved)


def test_a_file_that_is_cut_short_is_refused_wherever_it_is_cut(saved: Path) -> None:
    content = saved.read_bytes()
    for length in [*range(1, 40), *range(40, len(content), 97), len(content) - 1]:
        saved.write_bytes(content[:length])
        refused(saved)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_damaged_bytes_are_refused_or_leave_a_model(
    position: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    a_model().save(path)
    content = bytearray(path.read_bytes())
    (header,) = struct.unpack("<Q", content[:8])
    content[position % (8 + header)] = value  # the header: other bytes are numbers
    path.write_bytes(content)
    try:
        model = TrainedModel.load(path)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert model.predict_array(np.zeros((3, 3, model.description.bands), np.uint8)).shape == (3, 3)


def test_descriptions_are_read_without_torch(run_python: Callable[..., Any]) -> None:
    code = "import sys; from dynamicseg.model_description import parse_description; print('torch' in sys.modules)"
    assert run_python(code).stdout.strip() == "False"
    text = a_model().description.model_dump_json()
    assert parse_description(text).model_dump_json() == text
