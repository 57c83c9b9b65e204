"""What TensorRT proper is asked for, on a GPU that is made up; that its engines work can only be seen on a real one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from export_models import a_model
from fake_tensorrt import fake_tensorrt

from dynamicseg.export import Exported, engine, export, tensorrt
from dynamicseg.export.gpu import Gpu
from dynamicseg.export.parity import TooLittleAgreement
from dynamicseg.trained_model import TrainedModel

GPU = Gpu("Orin (nvgpu)", "8.7", "12.6")
Export = Callable[..., Exported]


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return a_model()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, model: TrainedModel) -> Path:
    """An exported ONNX file, from which engines are made at once."""
    return export(model, tmp_path_factory.mktemp("graph") / "m.onnx").path


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, model: TrainedModel) -> Callable[[ModuleType], None]:
    """Puts a TensorRT and a GPU into this machine, whose engines give the labels of the model."""

    def put(trt: ModuleType, gpu: Gpu | None = GPU) -> None:
        monkeypatch.setitem(sys.modules, "tensorrt", trt)
        for module in (tensorrt, engine):
            monkeypatch.setattr(module, "this_gpu", lambda: gpu)
        monkeypatch.setattr(engine, "engine_labels", lambda path: model.predict_array)

    return put


def test_the_network_is_strongly_typed_with_a_profile(
    install: Callable[..., None], graph: Path, tmp_path: Path
) -> None:
    trt = fake_tensorrt()
    install(trt)
    lines: list[str] = []
    exported = export(
        graph,
        tmp_path / "m.engine",
        format="tensorrt",
        size=(321, 481),
        max_size=(600, 800),
        batch=2,
        workspace=0.5,
        optimization_level=1,
        progress=lines.append,
    )
    assert trt.asked["network flags"] == 1 << 1
    assert trt.asked["profile"] == {"image": ((1, 32, 32, 3), (1, 321, 481, 3), (2, 600, 800, 3))}
    assert trt.asked["workspace"] == 1 << 29
    assert trt.asked["builder_optimization_level"] == 1
    assert "flags" not in trt.asked
    assert "building: 1 of 2" in lines
    found = exported.metadata["engine"]
    assert (found["kind"], found["version"], found["device"]) == ("tensorrt", "10.3.0", "Orin (nvgpu)")
    assert (found["compute_capabilities"], found["flags"], found["cuda_driver"]) == (["8.7"], [], "12.6")


def test_with_a_gpu_the_engine_itself_is_compared(
    install: Callable[..., None], graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(fake_tensorrt())
    exported = export(graph, tmp_path / "m.engine", format="tensorrt")
    assert exported.agreement is not None
    assert exported.agreement > 0.999
    assert exported.not_compared is None
    assert exported.metadata["export"]["compared_by"] == "tensorrt 10.3.0 on Orin (nvgpu)"
    other = a_model(seed=2)
    monkeypatch.setattr(engine, "engine_labels", lambda path: other.predict_array)
    with pytest.raises(TooLittleAgreement, match="the engine agrees with the model in"):
        export(graph, tmp_path / "other.engine", format="tensorrt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.engine", "m.engine.json"]


def test_compatibility_is_asked_for_and_written_down(install: Callable[..., None], graph: Path, tmp_path: Path) -> None:
    trt = fake_tensorrt("11.1.0.106")
    install(trt)
    exported = export(
        graph, tmp_path / "m.engine", format="tensorrt", version_compatible=True, hardware_compatibility="ampere+"
    )
    assert trt.asked["flags"] == ["VERSION_COMPATIBLE"]
    assert trt.asked["hardware_compatibility_level"] == "ampere plus"
    assert exported.metadata["engine"]["flags"] == ["version_compatible", "hardware_compatible"]
    with pytest.raises(ValueError, match=r"11\.1\.0\.106 knows no hardware-compatibility same-compute-capability"):
        export(graph, tmp_path / "o.engine", format="tensorrt", hardware_compatibility="same-compute-capability")


@pytest.mark.parametrize(
    ("kept", "used"),
    [(None, b""), (b"times", b"times"), (b"damaged", b""), (b"of another version", b"")],
)
def test_times_are_kept_by_version_and_gpu(
    kept: bytes | None, used: bytes, install: Callable[..., None], graph: Path, tmp_path: Path
) -> None:
    trt = fake_tensorrt()
    install(trt)
    cache = tmp_path / "times" / "tensorrt-10.3.0-Orin-nvgpu--sm8.7.cache"
    if kept is not None:
        cache.parent.mkdir()
        cache.write_bytes(kept)
    export(graph, tmp_path / "m.engine", format="tensorrt", timing_cache=tmp_path / "times")
    assert trt.asked["timing_cache"] == used
    assert cache.read_bytes() == b"times of 1.0"


@pytest.mark.parametrize(
    ("version", "gpu", "message"),
    [
        ("10.2.0", GPU, "TensorRT 10.2.0 is here; engines are built by 10.3 to 11"),
        ("12.0.1", GPU, "TensorRT 12.0.1 is here; engines are built by 10.3 to 11"),
        ("10.3.0", None, "TensorRT builds on the GPU that the engine is for, and there is none here"),
    ],
)
def test_versions_and_machines_that_cannot_build_are_refused(
    version: str, gpu: Gpu | None, message: str, install: Callable[..., None], graph: Path, tmp_path: Path
) -> None:
    install(fake_tensorrt(version), gpu)
    with pytest.raises(ValueError, match=message):
        export(graph, tmp_path / "m.engine", format="tensorrt")


def test_a_build_that_fails_gives_its_reason_and_no_file(
    install: Callable[..., None], graph: Path, tmp_path: Path
) -> None:
    install(fake_tensorrt(fails=True))
    with pytest.raises(ValueError, match=r"^TensorRT 10\.3\.0 cannot build this engine: out of memory$"):
        export(graph, tmp_path / "m.engine", format="tensorrt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gpu", [GPU, None], ids=["gpu", "no gpu"])
def test_without_tensorrt_there_is_the_command_that_installs_it(
    gpu: Gpu | None, monkeypatch: pytest.MonkeyPatch, graph: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(tensorrt, "this_gpu", lambda: gpu)
    with pytest.raises(ImportError, match=r"TensorRT is not installed .*(dynamicseg\[tensorrt\]|JetPack)") as refusal:
        export(graph, tmp_path / "m.engine", format="tensorrt")
    assert ("there is none here" in str(refusal.value)) == (gpu is None)


def refittable(graph: Path, folder: Path) -> Path:
    return export(graph, folder / "old.engine", format="tensorrt", refit=True, size=(321, 481)).path


def test_an_engine_takes_the_weights_of_another_model(
    install: Callable[..., None], graph: Path, tmp_path: Path
) -> None:
    trt = fake_tensorrt()
    install(trt)
    old = refittable(graph, tmp_path)
    assert trt.asked["flags"] == ["REFIT"]
    exported = export(graph, tmp_path / "new.engine", format="tensorrt", refit_from=old)
    assert json.loads((tmp_path / "new.engine").read_text())["weights"].startswith("refitted from")
    before, after = json.loads((tmp_path / "old.engine.json").read_text())["engine"], exported.metadata["engine"]
    assert before["sha256"] != after["sha256"]
    assert {**before, "sha256": ""} == {**after, "sha256": ""}


def change_sidecar(path: Path, part: str, **changes: Any) -> None:
    beside = path.with_name(f"{path.name}.json")
    known = json.loads(beside.read_text())
    (known[part] if part else known).update(changes)
    beside.write_text(json.dumps(known))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("engine", {"flags": []}, "cannot be refitted: build it with refit"),
        ("engine", {"version": "10.5.0"}, "was built by tensorrt 10.5.0, here is tensorrt 10.3.0: build it again"),
        ("engine", {"sha256": "0"}, "is not the engine that old.engine.json was written for"),
        ("engine", {"profile": None}, "old.engine.json: is damaged"),
        ("", {"label_count": 6}, "is of a model of another shape"),
        ("", {"network": {}}, "is of a model of another shape"),
        ("", {"engine": None}, "old.engine.json: is damaged"),
        ("export", {"precision": "int8"}, "is int8: calibration is wanted"),
    ],
)
def test_an_engine_that_does_not_fit_is_not_refitted(
    part: str, changes: dict[str, Any], message: str, install: Callable[..., None], graph: Path, tmp_path: Path
) -> None:
    install(fake_tensorrt())
    old = refittable(graph, tmp_path)
    change_sidecar(old, part, **changes)
    with pytest.raises(ValueError, match=message):
        export(graph, tmp_path / "new.engine", format="tensorrt", refit_from=old)
    assert not (tmp_path / "new.engine").exists()
