"""What engines have on the GPU: as much as there is, and given back; counted by a driver that is none."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from test_predict_engine import PHOTO, FakeDriver, FakeEngine, FakeGpu, here, save

from dynamicseg.inference import cuda_driver, engine
from dynamicseg.predict import load

__all__ = ["here"]  # a fixture


class CountingDriver(FakeDriver):
    """The same with memory that is this process's own; it counts what is not given back."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams = self.contexts = self.pushed = 0
        self.free = 10**9

    def cuDeviceGetName(self, text: Any, *_: Any) -> int:  # noqa: N802
        text.value = FakeGpu.name.encode()
        return 0

    def cuDevicePrimaryCtxRetain(self, *_: Any) -> int:  # noqa: N802
        self.contexts += 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, _: Any) -> int:  # noqa: N802
        self.contexts -= 1
        return 0

    def cuCtxPushCurrent_v2(self, _: Any) -> int:  # noqa: N802
        self.pushed += 1
        return 0

    def cuCtxPopCurrent_v2(self, _: Any) -> int:  # noqa: N802
        self.pushed -= 1
        return 0

    def cuStreamCreate(self, stream: Any, _: Any) -> int:  # noqa: N802
        stream._obj.value = FakeGpu.stream
        self.streams += 1
        return 0

    def cuStreamDestroy_v2(self, _: Any) -> int:  # noqa: N802
        self.streams -= 1
        return 0

    def cuMemGetInfo_v2(self, free: Any, _: Any) -> int:  # noqa: N802
        free._obj.value = self.free
        return 0

    def cuMemAlloc_v2(self, address: Any, nbytes: Any) -> int:  # noqa: N802
        buffer = ctypes.create_string_buffer(nbytes.value)
        address._obj.value = ctypes.addressof(buffer)
        self.memory[ctypes.addressof(buffer)] = buffer
        return 0

    def cuMemFree_v2(self, address: Any) -> int:  # noqa: N802
        assert self.contexts > 0
        del self.memory[address.value]
        return 0

    def cuMemcpyHtoDAsync_v2(self, address: Any, source: Any, nbytes: Any, _: Any) -> int:  # noqa: N802
        ctypes.memmove(address.value, source, nbytes.value)
        return 0

    def cuMemcpyDtoHAsync_v2(self, target: Any, address: Any, nbytes: Any, _: Any) -> int:  # noqa: N802
        ctypes.memmove(target, address.value, nbytes.value)
        return 0


@pytest.fixture
def counting(here: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> CountingDriver:
    driver = CountingDriver()
    monkeypatch.setattr(engine, "Gpu", cuda_driver.Gpu)
    monkeypatch.setattr(cuda_driver, "_driver", lambda: driver)
    return driver


def test_predictors_that_are_dropped_leave_nothing_behind(
    counting: CountingDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[bool] = []
    create = FakeEngine.create_execution_context

    def watched(self: FakeEngine) -> Any:
        context = create(self)
        # TensorRT's objects are gone while there still is a context of the GPU.
        weakref.finalize(context, lambda: alive.append(counting.contexts > 0))
        return context

    monkeypatch.setattr(FakeEngine, "create_execution_context", watched)
    path = save(tmp_path / "m.engine")
    image = PHOTO[:20, :20]
    for _ in range(1000):
        predictor = load(path)
        predictor.predict(image)
    assert (len(counting.memory), counting.streams, counting.contexts) == (2, 1, 1)
    del predictor
    gc.collect()
    assert (counting.memory, counting.streams, counting.contexts, counting.pushed) == ({}, 0, 0, 0)
    assert alive == [True] * 1000


def test_an_engine_that_is_refused_leaves_nothing_behind(
    counting: CountingDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="is refused by TensorRT"):
        load(save(tmp_path / "m.engine", b"another plan"))
    monkeypatch.setattr(CountingDriver, "cuStreamCreate", lambda *_: 2)
    with pytest.raises(ValueError, match="the CUDA driver refuses cuStreamCreate"):
        load(save(tmp_path / "m.engine"))
    gc.collect()
    assert (counting.memory, counting.streams, counting.contexts) == ({}, 0, 0)


@pytest.mark.parametrize("size_name", ["device_memory_size_v2", "device_memory_size", None])
def test_too_little_memory_for_an_engine_is_one_line(
    size_name: str | None, counting: CountingDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "create_execution_context", lambda _: None)
    wants = ""
    if size_name is not None:
        monkeypatch.setattr(FakeEngine, size_name, 2_500_000_000, raising=False)
        wants = "the engine wants 2.5 GB and "
    with pytest.raises(MemoryError) as caught:
        load(save(tmp_path / "m.engine"))
    assert str(caught.value) == (
        f"{tmp_path / 'm.engine'}: cannot be prepared by TensorRT, most likely for lack of memory: {wants}1.0 GB are "
        f"free on {FakeGpu.name}; end other programs, or export the model with a smaller --max-size"
    )
    del caught  # whose traceback knows the GPU
    gc.collect()
    assert counting.contexts == 0


def test_tiles_of_an_engine_fit_into_the_memory_of_its_gpu(counting: CountingDriver, tmp_path: Path) -> None:
    counting.free = 2 * 60 * 72 * (3 + 4)
    image = np.random.default_rng(5).integers(0, 256, (60, 72, 3), np.uint8)
    prediction = load(save(tmp_path / "m.engine")).predict(image)
    assert prediction.tile is None  # it fits, for the memory of the layers is there already
    counting.free = 2 * 64 * 64 * (3 + 4)
    image = np.random.default_rng(5).integers(0, 256, (64, 80, 3), np.uint8)
    prediction = load(save(tmp_path / "m.engine")).predict(image)
    assert prediction.tile == 64
    np.testing.assert_array_equal(prediction.labels, onnx_models.expected_labels(image))
