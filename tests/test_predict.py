"""``load(path).predict(image)``: the same call for every kind of model file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import onnxruntime
import pytest
import skimage.data
import torch
from PIL import Image
from test_trained_model import a_model

import dynamicseg
from dynamicseg import predict
from dynamicseg.io import label_palette, read_image, read_label_map
from dynamicseg.memory import usable_cores
from dynamicseg.predict import Predictor, load, model_input

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::6, ::6])


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    return onnx_models.save(tmp_path / "m.onnx")


@pytest.fixture
def predictor(onnx_file: Path) -> Predictor:
    return load(onnx_file)


class TestLabels:
    def test_are_those_of_the_network(self, predictor: Predictor) -> None:
        prediction = predictor.predict(PHOTO)
        assert prediction.labels.dtype == np.int32
        np.testing.assert_array_equal(prediction.labels, onnx_models.expected_labels(PHOTO))

    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 13)])
    def test_of_images_of_any_size(self, shape: tuple[int, int], predictor: Predictor) -> None:
        image = PHOTO[: shape[0], : shape[1]]
        np.testing.assert_array_equal(predictor.predict(image).labels, onnx_models.expected_labels(image))

    def test_keep_their_numbers_with_gaps(self, predictor: Predictor) -> None:
        prediction = predictor.predict(PHOTO)
        assert prediction.n_labels == 5
        assert len(np.unique(prediction.labels)) == 4
        assert prediction.areas().tolist() == np.bincount(prediction.labels.ravel(), minlength=5).tolist()

    def test_of_a_trained_model_are_those_of_its_network(self, tmp_path: Path) -> None:
        model = a_model()
        model.save(tmp_path / "m.safetensors")
        found = dynamicseg.load(tmp_path / "m.safetensors", threads=1)
        assert found.runtime["threads"] == 1
        agreement = (found.predict(PHOTO).labels == model.predict_array(PHOTO)).mean()
        assert agreement > 0.999  # another memory format rounds differently
        assert found.predict(PHOTO).metadata()["model"]["format"] == "safetensors"

    def test_leave_the_number_of_threads_as_it_was(self, tmp_path: Path) -> None:
        a_model().save(tmp_path / "m.safetensors")
        before = torch.get_num_threads()
        load(tmp_path / "m.safetensors", threads=before + 1).predict(PHOTO)
        assert torch.get_num_threads() == before


class TestImages:
    def test_paths_pictures_and_arrays_are_alike(self, predictor: Predictor, tmp_path: Path) -> None:
        Image.fromarray(PHOTO).save(tmp_path / "photo.png")
        expected = predictor.predict(PHOTO)
        assert (expected.source, dict(expected.input)) == (None, {})
        for image in (
            tmp_path / "photo.png",
            str(tmp_path / "photo.png"),
            Image.fromarray(PHOTO),
            PHOTO[:, ::-1][:, ::-1],
        ):
            np.testing.assert_array_equal(predictor.predict(image).labels, expected.labels)
        from_file = predictor.predict(tmp_path / "photo.png")
        assert from_file.source == str(tmp_path / "photo.png")
        assert from_file.input["bytes"] == (tmp_path / "photo.png").stat().st_size

    def test_sixteen_bits_and_floats_become_bytes(self) -> None:
        every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
        np.testing.assert_array_equal(model_input(every.astype(np.uint16) * 257, 1), every)
        np.testing.assert_array_equal(model_input(every.astype(np.float32) / 255, 1), every)
        np.testing.assert_array_equal(
            model_input(np.array([[[0], [128], [129], [65535]]], np.uint16), 1).ravel(), [0, 0, 1, 255]
        )
        np.testing.assert_array_equal(
            model_input(np.array([[[0.0], [0.4 / 255], [0.6 / 255], [1]]], np.float32), 1).ravel(), [0, 0, 1, 255]
        )

    def test_all_types_have_the_same_labels(self, predictor: Predictor) -> None:
        expected = predictor.predict(PHOTO).labels
        for image in (PHOTO.astype(np.uint16) * 257, PHOTO / 255, (PHOTO / 255).astype(np.float32)):
            np.testing.assert_array_equal(predictor.predict(image).labels, expected)

    @pytest.mark.parametrize("image", [PHOTO / 128, PHOTO / 255 - 0.1])
    def test_floats_beyond_0_to_1_are_refused(self, image: Any, predictor: Predictor) -> None:
        with pytest.raises(ValueError, match=r"values from \S+ to \S+; a model takes floats of 0 to 1"):
            predictor.predict(image)

    @pytest.mark.parametrize("image", [PHOTO[..., 0], np.zeros((5, 5, 4), np.uint8)])
    def test_other_bands_are_refused(self, image: Any, predictor: Predictor) -> None:
        with pytest.raises(ValueError, match=r"the image has (1 band|4 bands), the model was trained on 3"):
            predictor.predict(image)

    def test_bands_may_come_first(self, predictor: Predictor) -> None:
        found = predictor.predict(np.moveaxis(PHOTO, 2, 0), channel_axis=0)
        np.testing.assert_array_equal(found.labels, predictor.predict(PHOTO).labels)

    def test_what_is_no_image_is_refused_as_everywhere(self, predictor: Predictor) -> None:
        with pytest.raises(TypeError, match="want a path, a PIL image, or an array"):
            predictor.predict(None)
        with pytest.raises(FileNotFoundError, match="no such file"):
            predictor.predict("nowhere.png")


class TestResult:
    def test_is_saved_as_a_segmentation_is(self, predictor: Predictor, tmp_path: Path) -> None:
        prediction = predictor.predict(PHOTO)
        written = prediction.save(tmp_path, "a/p", ("png", "overlay", "json", "npy", "boundaries"))
        assert sorted(path.name for path in written) == [
            "p.json", "p_boundaries.png", "p_labels.npy", "p_labels.png", "p_overlay.png",
        ]  # fmt: skip
        np.testing.assert_array_equal(read_label_map(tmp_path / "a" / "p_labels.png"), prediction.labels)
        np.testing.assert_array_equal(read_image(tmp_path / "a" / "p_overlay.png"), prediction.numbered_overlay())
        described = json.loads((tmp_path / "a" / "p.json").read_text())
        assert described == prediction.metadata()
        assert described["areas"] == prediction.areas().tolist()
        assert described["colours"] == ["#" + bytes(colour).hex() for colour in prediction.palette]
        assert described["runtime"]["provider"] == "cpu"
        assert described["model"]["precision"] == "fp32"
        assert described["timings"]["total"] >= described["timings"]["predict"] > 0

    def test_has_the_colours_of_the_model(self, tmp_path: Path) -> None:
        palette = label_palette(5)[::-1].tolist()
        prediction = load(onnx_models.save(tmp_path / "m.onnx", palette=palette)).predict(PHOTO)
        prediction.save(tmp_path, "p", "png")
        with Image.open(tmp_path / "p_labels.png") as image:
            assert np.array(image.getpalette()).reshape(-1, 3)[:5].tolist() == palette
        np.testing.assert_array_equal(
            prediction.overlay(alpha=1.0)[~prediction.boundaries()],
            np.array(palette)[prediction.labels][~prediction.boundaries()],
        )

    def test_repr_is_one_short_line(self, predictor: Predictor) -> None:
        assert repr(predictor.predict(PHOTO)) == "Prediction(50x76, n_labels=5)"
        assert re.fullmatch(r"Predictor\('.*m.onnx', provider='cpu'\)", repr(predictor))

    def test_labels_that_the_description_excludes_are_an_error(self, tmp_path: Path) -> None:
        # 5 labels come out, 2 are described.
        liar = onnx_models.save(tmp_path / "m.onnx", label_count=2, palette=[[0, 0, 0]] * 2)
        with pytest.raises(ValueError, match=r"labels up to \d, which its description excludes"):
            load(liar).predict(PHOTO)


class TestLoad:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("m.onxx", r"known are .safetensors, .onnx, .engine; did you mean .onnx\?"),
            ("m", "suffix '' names no kind of model"),
            ("m.pt", "suffix '.pt' names no kind of model"),
        ],
    )
    def test_the_suffix_tells_the_kind(self, name: str, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            load(name)

    @pytest.mark.parametrize("name", ["m.onnx", "m.safetensors", "m.engine"])
    def test_a_file_that_is_not_there(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=rf"{name}: no such file"):
            load(tmp_path / name)
        (tmp_path / name).mkdir()
        with pytest.raises(IsADirectoryError, match="is a folder"):
            load(tmp_path / name)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"providers": "cdua"}, r"choose from cuda, openvino, cpu, tensorrt; did you mean cuda\?"),
            ({"providers": []}, "no provider is named"),
            ({"threads": 0}, "threads wants a whole number, at least 1, not 0"),
            ({"threads": True}, "threads wants a whole number"),
            ({"device": "gpu"}, "device wants auto, cpu, cuda or cuda:N, not 'gpu'"),
            ({"device": "cuda:x"}, "device wants auto"),
        ],
    )
    def test_options_are_checked(self, options: dict[str, Any], words: str, onnx_file: Path) -> None:
        with pytest.raises(ValueError, match=words):
            load(onnx_file, **options)

    def test_options_that_do_not_suit_the_file_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="providers are for ONNX files"):
            load(tmp_path / "m.safetensors", providers="cpu")

    def test_threads_are_reported(self, onnx_file: Path) -> None:
        assert load(onnx_file, threads=3).runtime["threads"] == 3
        assert load(onnx_file, providers=["cpu"], device="cpu").runtime["provider"] == "cpu"


class FakeSession:
    """Of ONNX Runtime: starts with those of the wanted providers that ``working`` holds."""

    working: tuple[str, ...] = ()

    def __init__(self, _: bytes, __: Any, providers: list[tuple[str, dict[str, int]]], enable_fallback: int) -> None:
        assert not enable_fallback  # which would print
        self.providers = providers

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.providers if name in self.working] + ["CPUExecutionProvider"]


class TestProviders:
    @pytest.fixture(autouse=True)
    def _runtime(self, monkeypatch: pytest.MonkeyPatch) -> None:
        built_in = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built_in)
        monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)

    def test_the_best_that_works_is_used_and_tensorrt_only_when_named(
        self, onnx_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
        assert load(onnx_file).runtime["provider"] == "cpu"  # built for CUDA, but it does not start
        monkeypatch.setattr(FakeSession, "working", both)
        assert load(onnx_file).runtime == {
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            "provider": "cuda",
            "device": "cuda:0",
            "threads": usable_cores(),
        }
        assert load(onnx_file, device="cuda:1").runtime["device"] == "cuda:1"
        assert load(onnx_file, device="cpu").runtime["provider"] == "cpu"
        assert load(onnx_file, providers="tensorrt").runtime["provider"] == "tensorrt"
        assert load(onnx_file, providers=["cpu", "cuda"]).runtime["provider"] == "cpu"

    def test_one_that_is_missing_is_an_error(self, onnx_file: Path) -> None:
        with pytest.raises(
            ValueError, match="provider openvino is not in this ONNX Runtime, which has cuda, cpu, tensorrt: pip"
        ):
            load(onnx_file, providers="openvino")
        with pytest.raises(ValueError, match=r"provider cuda is in ONNX Runtime .*, but does not start here"):
            load(onnx_file, providers="cuda")

    def test_a_device_that_nothing_can_use_is_an_error(self, onnx_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
        with pytest.raises(ValueError, match=r"device cuda: this ONNX Runtime computes on cpu alone; "):
            load(onnx_file, device="cuda")


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"m.{kind}"
    if kind == "onnx":
        onnx_models.save(path)
    else:
        a_model().save(path)
    identity = predict._identity

    def changed_afterwards(*arguments: Any) -> Any:
        found = identity(*arguments)
        other = path.with_suffix(".new")
        other.write_bytes(path.read_bytes())
        other.replace(path)
        return found

    monkeypatch.setattr(predict, "_identity", changed_afterwards)
    with pytest.raises(ValueError, match=rf"m\.{kind}: was changed while it was read: load it again"):
        load(path)
