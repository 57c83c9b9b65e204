"""A module with the part of TensorRT's interface that builds engines, which writes down what it is asked for."""

from __future__ import annotations

import enum
import json
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx


class Flag(enum.IntEnum):
    STRONGLY_TYPED = 1
    REFIT = 2
    VERSION_COMPATIBLE = 3


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return b"times of 1.0"


class Config:
    asked: dict[str, Any]

    def __init__(self, asked: dict[str, Any]) -> None:
        object.__setattr__(self, "asked", asked)

    def __setattr__(self, name: str, value: Any) -> None:
        self.asked[name] = value

    def set_flag(self, flag: Flag) -> None:
        self.asked.setdefault("flags", []).append(flag.name)

    def add_optimization_profile(self, profile: Any) -> int:
        self.asked["profile"] = profile.shapes
        return 0

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.asked[pool] = size

    def create_timing_cache(self, content: bytes) -> Cache | None:
        return None if content == b"damaged" else Cache(content)

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.asked["timing_cache"] = cache.content
        return cache.content != b"of another version"

    def get_timing_cache(self) -> Cache:
        return Cache(b"")


class Profile:
    def set_shape(self, name: str, *shapes: Any) -> None:
        self.shapes = {name: shapes}


def fake_tensorrt(version: str = "10.3.0", *, fails: bool = False) -> ModuleType:
    """The module; what was asked for stands in its ``asked``. Its engines are JSON."""
    trt = ModuleType("tensorrt")
    asked: dict[str, Any] = {}

    class Builder:
        def __init__(self, log: Any) -> None:
            self.log = log

        def create_network(self, flags: int) -> Any:
            asked["network flags"] = flags
            return SimpleNamespace()

        def create_builder_config(self) -> Config:
            return Config(asked)

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
            monitor = asked["progress_monitor"]
            monitor.phase_start("Building", None, 2)
            assert monitor.step_complete("Building", 0)
            monitor.phase_finish("Building")
            if fails:
                self.log.log(Severity.ERROR, "out of\nmemory")
                return None
            return json.dumps({"tensors": ["image", "labels"], "weights": network.weights}).encode()

    class OnnxParser:
        def __init__(self, network: Any, log: Any) -> None:
            self.network, self.num_errors = network, 0

        def parse(self, content: bytes) -> bool:
            graph = onnx.ModelProto.FromString(content).graph
            given, made = (SimpleNamespace(name=v.name) for v in (graph.input[0], graph.output[0]))
            given.dtype, given.shape = "uint8", (-1, -1, -1, 3)
            made.dtype, made.shape = "int32", (-1, -1, -1)
            self.network.num_inputs = self.network.num_outputs = 1
            self.network.get_input, self.network.get_output = lambda k: given, lambda k: made
            self.network.weights = len(content)
            return True

    class OnnxParserRefitter:
        def __init__(self, refitter: Any, log: Any) -> None:
            self.refitter = refitter

        def refit_from_bytes(self, content: bytes) -> bool:
            self.refitter.engine.weights = f"refitted from {len(content)} bytes"
            return True

    class Refitter:
        def __init__(self, engine: Any, log: Any) -> None:
            self.engine = engine

        def refit_cuda_engine(self) -> bool:
            return not fails

    class Runtime:
        def __init__(self, log: Any) -> None:
            pass

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            engine = SimpleNamespace(**json.loads(plan))
            engine.serialize = lambda: json.dumps({"weights": engine.weights}).encode()
            return engine

    class Severity(enum.Enum):
        ERROR = 1
        INTERNAL_ERROR = 0

    class ILogger:
        pass

    ILogger.Severity = Severity  # type: ignore[attr-defined]
    contents = {
        "__version__": version,
        "asked": asked,
        "Builder": Builder,
        "BuilderFlag": Flag,
        "DataType": SimpleNamespace(UINT8="uint8", INT32="int32"),
        "HardwareCompatibilityLevel": SimpleNamespace(AMPERE_PLUS="ampere plus"),
        "ILogger": ILogger,
        "IProgressMonitor": type("IProgressMonitor", (), {}),
        "MemoryPoolType": SimpleNamespace(WORKSPACE="workspace"),
        "NetworkDefinitionCreationFlag": Flag,
        "OnnxParser": OnnxParser,
        "OnnxParserRefitter": OnnxParserRefitter,
        "Refitter": Refitter,
        "Runtime": Runtime,
    }
    for name, value in contents.items():
        setattr(trt, name, value)
    return trt
