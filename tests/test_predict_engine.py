"""Engines: opened only if they were built for this GPU and this version; and run, on stand-ins."""

from __future__ import annotations

import ctypes
import hashlib
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import onnxruntime
import pytest
import skimage.data

from dynamicseg.inference import available, cuda_driver, engine
from dynamicseg.inference.engine_file import sidecar_path
from dynamicseg.predict import load

PHOTO = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])
PLAN = b"ftrt" + bytes(range(256))


def save(path: Path, plan: bytes = PLAN, **changes: Any) -> Path:
    """An engine of a kind, with its sidecar; ``changes`` are of what the sidecar says of the engine."""
    path.write_bytes(plan)
    stamp = {
        "kind": "tensorrt",
        "version": "10.13.3.9",
        "device": "NVIDIA GeForce RTX 4090",
        "compute_capabilities": ["8.9"],
        "os": "Linux",
        "cuda": "12.9",
        "precision": "fp16",
        "profile": {"min": [1, 16, 16, 3], "opt": [1, 321, 481, 3], "max": [2, 64, 80, 3]},
        "flags": [],
        "sha256": hashlib.sha256(plan).hexdigest(),
        **changes,
    }
    sidecar_path(path).write_text(json.dumps(onnx_models.description() | {"engine": stamp}))
    return path


class FakeGpu:
    """A GPU whose memory is this process's own."""

    name, compute_capability, stream = "NVIDIA GeForce RTX 4090", "8.9", 7

    def __init__(self, index: int = 0) -> None:
        self.memory: dict[int, Any] = {}

    def use(self) -> None:
        pass

    def free_memory(self) -> int:
        return 3 * 10**9

    def allocate(self, nbytes: int) -> int:
        buffer = ctypes.create_string_buffer(nbytes)
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        del self.memory[address]

    def copy_in(self, address: int, array: Any) -> None:
        assert len(self.memory[address]) >= array.nbytes
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def copy_out(self, array: Any, address: int) -> None:
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def wait(self) -> None:
        pass


class FakeContext:
    """Computes what the ONNX files of the tests compute."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "image"
        self.shape = shape
        return all(least <= n <= most for least, n, most in zip((1, 16, 16, 3), shape, (2, 64, 80, 3), strict=True))

    def set_tensor_address(self, name: str, address: int) -> None:
        setattr(self, name, address)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == FakeGpu.stream
        nbytes = int(np.prod(self.shape))
        images = np.frombuffer(ctypes.string_at(self.image, nbytes), np.uint8).reshape(self.shape)
        labels = np.stack([onnx_models.expected_labels(image) for image in images])
        ctypes.memmove(self.labels, labels.ctypes.data, labels.nbytes)
        return True

    image: int
    labels: int


class FakeEngine:
    num_io_tensors = 2
    names = ("image", "labels")

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "image" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "u8" if name == "image" else "i32"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, -1, -1, 3) if name == "image" else (-1, -1, -1)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 16, 16, 3), (1, 64, 80, 3), (2, 64, 80, 3)]

    def create_execution_context(self) -> FakeContext:
        return FakeContext()


class FakeRuntime:
    engine_host_code_allowed = False
    opened: list[bytes] = []  # noqa: RUF012  # cleared by the fixture

    def __init__(self, _: object) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        self.opened.append(plan)
        if plan.endswith(b"version compatible") and not self.engine_host_code_allowed:
            return None
        return FakeEngine() if plan.startswith(b"ftrt") else None


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with TensorRT 10.13.3.9 and the GPU of ``FakeGpu``; ``here(version=...)`` changes that."""
    FakeRuntime.opened.clear()

    def put(version: str = "10.13.3.9", name: str = FakeGpu.name, compute_capability: str = "8.9") -> None:
        module: Any = types.ModuleType("tensorrt")
        module.__version__, module.Runtime, module.Logger = version, FakeRuntime, types.SimpleNamespace
        module.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda *_: None})
        module.TensorIOMode = types.SimpleNamespace(INPUT="in", OUTPUT="out")
        module.DataType = types.SimpleNamespace(UINT8="u8", INT32="i32")
        for module_name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.setitem(sys.modules, module_name, module)
        gpu = type("Gpu", (FakeGpu,), {"name": name, "compute_capability": compute_capability})
        monkeypatch.setattr(engine, "Gpu", gpu)

    put()
    return put


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(ValueError, match=r"m\.engine") as caught:
        load(path, **options)
    assert FakeRuntime.opened == []  # nothing of the engine was run
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- what is refused before it is opened -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "machine", "words"),
    [
        ({}, {"version": "10.13.2.6"}, "was built by TensorRT 10.13.3.9, here is 10.13.2.6: build it here with"),
        ({}, {"version": "11.1.0.106"}, "was built by TensorRT 10.13.3.9, here is 11.1.0.106"),
        ({"flags": ["version_compatible"]}, {"version": "10.12.0.36"}, "here is 10.12.0.36"),
        ({"flags": ["version_compatible"]}, {"version": "11.1.0.106"}, "here is 11.1.0.106"),
        ({"version": "ten"}, {}, "was built by TensorRT ten, here is 10.13.3.9"),
        (
            {},
            {"name": "NVIDIA H100", "compute_capability": "9.0"},
            "was built for NVIDIA GeForce RTX 4090 of compute capability 8.9, here is NVIDIA H100 of compute",
        ),
        ({}, {"name": "NVIDIA L4"}, "here is NVIDIA L4 of compute capability 8.9"),
        ({"flags": ["hardware_compatible"]}, {"name": "Tesla T4", "compute_capability": "7.5"}, "here is Tesla T4"),
        (
            {"kind": "tensorrt-rtx", "device": None, "compute_capabilities": ["8.6", "12.0"]},
            {},
            "was built for GPUs of compute capability 8.6, 12.0, here is NVIDIA GeForce RTX 4090",
        ),
    ],
)
def test_engines_for_something_else_are_refused(
    changes: dict[str, Any], machine: dict[str, str], words: str, here: Callable[..., None], tmp_path: Path
) -> None:
    here(**machine)
    text = refusal(save(tmp_path / "m.engine", **changes))
    assert words in text
    kind = changes.get("kind", "tensorrt")
    assert text.endswith(f"build it here with dynamicseg export MODEL.safetensors --to {kind} -o m.engine")


@pytest.mark.parametrize(
    ("changes", "machine"),
    [
        ({}, {}),
        ({"flags": ["version_compatible"], "version": "10.3.0.26"}, {}),
        ({"flags": ["hardware_compatible"], "device": "NVIDIA A100", "compute_capabilities": ["8.0"]}, {}),
        ({"flags": ["same_compute_capability"]}, {"name": "NVIDIA L4"}),
        ({"kind": "tensorrt-rtx", "device": None, "compute_capabilities": ["8.6", "8.9"]}, {"name": "NVIDIA L4"}),
    ],
)
def test_engines_for_this_machine_are_opened(
    changes: dict[str, Any], machine: dict[str, str], here: Callable[..., None], tmp_path: Path
) -> None:
    here(**machine)
    plan = PLAN + b" version compatible" if "version_compatible" in changes.get("flags", []) else PLAN
    predictor = load(save(tmp_path / "m.engine", plan, **changes))
    assert FakeRuntime.opened == [plan]
    assert predictor.runtime["provider"] == changes.get("kind", "tensorrt")
    assert predictor.runtime["device"] == "cuda:0"


def test_an_engine_that_was_changed_is_refused(here: Callable[..., None], tmp_path: Path) -> None:
    path = save(tmp_path / "m.engine")
    path.write_bytes(PLAN[:-1])
    assert "is not the engine that m.engine.json was written for, or it is damaged" in refusal(path)
    save(tmp_path / "m.engine", b"")
    assert "is empty (0 bytes)" in refusal(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "m.engine.json: is empty"),
        ("{", "it is no JSON"),
        ("{}", "format_version is None"),
        (json.dumps(onnx_models.description()), "says nothing of an engine"),
        (json.dumps(onnx_models.description(engine={"kind": "tensorrt"})), "its engine has no version"),
        (
            json.dumps(onnx_models.description(engine={"kind": "x", "version": "1", "sha256": ""})),
            "is for an engine of kind 'x'; known are tensorrt, tensorrt-rtx",
        ),
        (
            json.dumps(
                onnx_models.description(engine={"kind": "tensorrt", "version": "1", "sha256": "", "flags": [1]})
            ),
            "flags of its engine is no list of names",
        ),
        (
            json.dumps(onnx_models.description(engine={"kind": "tensorrt", "version": "1", "sha256": "", "device": 1})),
            "the device of its engine has no name",
        ),
    ],
)
def test_a_damaged_sidecar_is_refused(text: str, words: str, here: Callable[..., None], tmp_path: Path) -> None:
    path = save(tmp_path / "m.engine")
    sidecar_path(path).write_text(text)
    assert words in refusal(path)


def test_an_engine_without_its_sidecar_is_refused(here: Callable[..., None], tmp_path: Path) -> None:
    path = save(tmp_path / "m.engine")
    sidecar_path(path).unlink()
    assert "there is no m.engine.json beside it" in refusal(path)


def test_options_of_the_cpu_are_refused(here: Callable[..., None], tmp_path: Path) -> None:
    path = save(tmp_path / "m.engine")
    assert "is an engine, which runs on a GPU" in refusal(path, device="cpu")
    assert "threads are for the CPU" in refusal(path, threads=2)
    assert "providers are for ONNX files" in refusal(path, providers="cpu")


def test_without_tensorrt_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        ImportError, match=r"engines of this kind need TensorRT .*: pip install 'dynamicseg\[tensorrt\]'"
    ):
        load(save(tmp_path / "m.engine"))


def test_without_a_driver_there_is_no_gpu(here: Callable[..., None], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "Gpu", cuda_driver.Gpu)
    monkeypatch.setattr(cuda_driver, "_LIBRARIES", ("libnowhere.so.1",))
    with pytest.raises(ValueError, match=r"engines run on an NVIDIA GPU.*libnowhere.so.1 is missing"):
        load(save(tmp_path / "m.engine"))


# ---- what is opened --------------------------------------------------------------------------------------------------


def test_a_plan_that_tensorrt_refuses_is_one_line(here: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"m.engine: is refused by TensorRT 10.13.3.9, see above: build it here"):
        load(save(tmp_path / "m.engine", b"another plan"))


def test_a_plan_with_other_tensors_is_refused(
    here: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "names", ("image", "scores"))
    with pytest.raises(ValueError, match=r"has other inputs and outputs than exported engines \(image, scores\)"):
        load(save(tmp_path / "m.engine"))


@pytest.mark.parametrize("size", [(38, 57), (64, 80), (9, 60), (130, 170)])
def test_labels_are_those_of_the_network(size: tuple[int, int], here: Callable[..., None], tmp_path: Path) -> None:
    predictor = load(save(tmp_path / "m.engine"))
    image = np.random.default_rng(5).integers(0, 256, (*size, 3), np.uint8)
    prediction = predictor.predict(image)
    expected = onnx_models.expected_labels(image)
    rows = slice(None) if size[0] >= 16 else slice(size[0] - 2)  # smaller than the engine takes: the edge is repeated
    np.testing.assert_array_equal(prediction.labels[rows], expected[rows])
    assert prediction.tile == (80 if size[0] > 64 else None)


def test_a_batch_goes_through_in_parts_and_memory_is_used_again(here: Callable[..., None], tmp_path: Path) -> None:
    running = load(save(tmp_path / "m.engine")).running
    images = np.stack([np.roll(PHOTO[:30, :40], k, axis=0) for k in range(5)])
    labels = running.labels(images)
    np.testing.assert_array_equal(labels, [onnx_models.expected_labels(image) for image in images])
    running.labels(images[:, :20])
    assert len(running._gpu.memory) == 2  # type: ignore[attr-defined]


# ---- the driver ------------------------------------------------------------------------------------------------------


class FakeDriver:
    """A CUDA driver with one GPU; every function but those below succeeds."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *_: 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = 1
        return 0

    def cuDeviceGetName(self, text: Any, *_: Any) -> int:  # noqa: N802
        text.value = b"NVIDIA Test"
        return 0

    def cuDeviceGetAttribute(self, value: Any, which: Any, _: Any) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 9}[which.value]
        return 0

    def cuMemAlloc_v2(self, *_: Any) -> int:  # noqa: N802
        return 2

    def cuGetErrorString(self, _: Any, text: Any) -> int:  # noqa: N802
        text._obj.value = b"out of memory"
        return 0


def test_a_gpu_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: FakeDriver())
    gpu = cuda_driver.Gpu()
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA Test", "8.9")
    with pytest.raises(ValueError, match="device cuda:3: this machine has 1 GPU, numbered from 0"):
        cuda_driver.Gpu(3)
    with pytest.raises(MemoryError, match=r"NVIDIA Test has no 1000 bytes left \(.* out of memory \(2\)\)"):
        gpu.allocate(1000)


# ---- what info says --------------------------------------------------------------------------------------------------


def test_info_says_what_can_run_and_why_not(here: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available, "Gpu", FakeGpu)
    found = available.runtimes()
    assert found["onnx_runtime"].endswith(", tries cpu")
    assert found["engines_of_tensorrt"] == "10.13.3.9, on NVIDIA GeForce RTX 4090 of compute capability 8.9"
    assert found["videos"].startswith("PyAV ")
    built_in = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: built_in)
    assert "tries cuda, then cpu; tensorrt only when it is named" in available.runtimes()["onnx_runtime"]
    for name in ("onnxruntime", "tensorrt", "av"):
        monkeypatch.setitem(sys.modules, name, None)
    found = available.runtimes()
    assert found["onnx_runtime"].startswith("no: ONNX files need ONNX Runtime")
    assert found["engines_of_tensorrt"].startswith("no: engines of this kind need TensorRT")
    assert found["videos"].startswith("no: videos need PyAV")
