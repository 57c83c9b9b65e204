"""Engines of TensorRT 10.3 to 11, and of TensorRT-RTX: what differs between the two stands in their classes.

The network is strongly typed: its precision is that of the ONNX graph, in versions 10 and 11 alike. TensorRT measures
on the GPU that is here, and the engine is for that GPU. TensorRT-RTX compiles for GPUs by name and needs none.
"""

from __future__ import annotations

import importlib
import platform
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicseg._files import opened, whole_file
from dynamicseg.export.formats import INPUT, OUTPUT, ExportOptions
from dynamicseg.export.gpu import Gpu, this_gpu
from dynamicseg.export.profile import Profile
from dynamicseg.inference.tensorrt_library import import_tensorrt_rtx

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class BuiltEngine:
    """What a build gave.

    Attributes:
        plan: the engine, as it is written to a file.
        tensors: type and shape of its input and its output by name, as TensorRT reads the graph; -1: any.
    """

    plan: bytes
    tensors: dict[str, Any]


class EngineMaker(ABC):
    """What builds engines of one kind.

    Attributes:
        trt: the module of TensorRT.
    """

    kind: str
    title: str
    needs_gpu: bool

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.log = _log_of(trt)

    @property
    def version(self) -> str:
        """Of TensorRT."""
        return str(self.trt.__version__)

    @classmethod
    @abstractmethod
    def load(cls) -> EngineMaker:
        """Imports the library; ImportError says how to install it."""

    @abstractmethod
    def check(self, options: ExportOptions) -> None:
        """ValueError where this version or this machine cannot do what is asked for."""

    @abstractmethod
    def configure(self, config: Any, options: ExportOptions) -> Callable[[], None]:
        """Sets what only this kind has; what comes back is called after the build."""

    @abstractmethod
    def target(self, options: ExportOptions) -> dict[str, Any]:
        """``device``, its name or None, ``compute_capabilities`` and ``flags`` of an engine, ready for JSON."""

    def build(self, graph: bytes, options: ExportOptions, profile: Profile, progress: Progress) -> BuiltEngine:
        """Builds an engine.

        Args:
            graph: an ONNX file.
            options: checked for this kind of engine.
            profile: see ``profile_of``.
            progress: called with a line on how far it is.

        Raises:
            ValueError: TensorRT does not take the graph or the options, or cannot build; with its own words.
        """
        trt = self.trt
        self.check(options)
        self.log.lines.clear()
        builder = trt.Builder(self.log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self.log)
        if not parser.parse(graph):
            reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)]
            raise ValueError(self._failed("does not take the graph", reasons))
        tensors = self._tensors(network)
        config = builder.create_builder_config()
        config.progress_monitor = _monitor(trt, progress)
        shapes = builder.create_optimization_profile()
        shapes.set_shape(INPUT, profile.min, profile.opt, profile.max)
        config.add_optimization_profile(shapes)
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace * (1 << 30)))
        if options.refit:
            config.set_flag(trt.BuilderFlag.REFIT)
        finish = self.configure(config, options)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise ValueError(self._failed("cannot build this engine", self.log.lines))
        finish()
        return self._read_back(bytes(plan), tensors)

    def refitted(self, plan: bytes, graph: bytes) -> bytes:
        """The same engine with the weights of another graph of the same shape; needs the GPU.

        Raises:
            ValueError: TensorRT cannot read the engine, or it does not take these weights.
        """
        trt = self.trt
        self.log.lines.clear()
        engine = trt.Runtime(self.log).deserialize_cuda_engine(plan)
        if engine is None:
            raise ValueError(self._failed("cannot read the engine to refit", self.log.lines))
        refitter = trt.Refitter(engine, self.log)
        parser = trt.OnnxParserRefitter(refitter, self.log)
        if not parser.refit_from_bytes(graph) or not refitter.refit_cuda_engine():
            raise ValueError(self._failed("cannot put these weights into the engine", self.log.lines))
        return bytes(engine.serialize())

    def _tensors(self, network: Any) -> dict[str, Any]:
        """The input and the output of a parsed network, which have to be ours."""
        trt = self.trt
        given = [network.get_input(k) for k in range(network.num_inputs)]
        made = [network.get_output(k) for k in range(network.num_outputs)]
        found = [(tensor.name, tensor.dtype, len(tuple(tensor.shape))) for tensor in (*given, *made)]
        if found != [(INPUT, trt.DataType.UINT8, 4), (OUTPUT, trt.DataType.INT32, 3)]:
            raise ValueError(f"{self.title} reads the graph as {found}: please report it")
        types = {INPUT: "uint8", OUTPUT: "int32"}
        return {tensor.name: {"type": types[tensor.name], "shape": list(tensor.shape)} for tensor in (*given, *made)}

    def _read_back(self, plan: bytes, tensors: dict[str, Any]) -> BuiltEngine:
        """The engine, if it holds the names of its tensors; more of it can be read on its GPU alone."""
        if any(name.encode() not in plan for name in tensors):
            raise ValueError(f"{self.title} has built an engine without {' and '.join(tensors)}: please report it")
        return BuiltEngine(plan, tensors)

    def _failed(self, what: str, reasons: list[str]) -> str:
        reason = " ".join(" ".join(reasons[-1:]).split())[:400] or "it gives no reason"
        return f"{self.title} {self.version} {what}: {reason}"


class TensorRT(EngineMaker):
    """Engines for the GPU that is here."""

    kind, title, needs_gpu = "tensorrt", "TensorRT", True

    @classmethod
    def load(cls) -> TensorRT:
        """See ``EngineMaker.load``."""
        try:
            return cls(importlib.import_module("tensorrt"))
        except ImportError as error:
            hint = "it comes with JetPack" if platform.machine() == "aarch64" else "pip install 'dynamicseg[tensorrt]'"
            if this_gpu() is None:  # before it is fetched for nothing
                hint += "; it builds on the GPU that the engine is for, and there is none here"
            raise ImportError(f"TensorRT is not installed ({error}): {hint}") from None

    def check(self, options: ExportOptions) -> None:
        """See ``EngineMaker.check``."""
        numbers = _numbers(self.version)
        if not (10, 3) <= numbers[:2] < (12, 0):
            raise ValueError(f"TensorRT {self.version} is here; engines are built by 10.3 to 11")
        if this_gpu() is None:
            raise ValueError(
                "TensorRT builds on the GPU that the engine is for, and there is none here: run this there"
            )

    def configure(self, config: Any, options: ExportOptions) -> Callable[[], None]:
        """See ``EngineMaker.configure``."""
        trt = self.trt
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.hardware_compatibility is not None:
            level = "AMPERE_PLUS" if options.hardware_compatibility == "ampere+" else "SAME_COMPUTE_CAPABILITY"
            known = getattr(trt.HardwareCompatibilityLevel, level, None)
            if known is None:
                wanted = options.hardware_compatibility
                raise ValueError(f"TensorRT {self.version} knows no hardware-compatibility {wanted}: choose ampere+")
            config.hardware_compatibility_level = known
        return self._with_timing_cache(config, options.timing_cache)

    def target(self, options: ExportOptions) -> dict[str, Any]:
        """See ``EngineMaker.target``."""
        gpu = _present(this_gpu())
        flags = {
            "version_compatible": options.version_compatible,
            "hardware_compatible": options.hardware_compatibility == "ampere+",
            "same_compute_capability": options.hardware_compatibility == "same-compute-capability",
            "refit": options.refit,
        }
        return {
            "device": gpu.name,
            "compute_capabilities": [gpu.compute_capability],
            "flags": [name for name, wanted in flags.items() if wanted],
        }

    def _with_timing_cache(self, config: Any, folder: Path | None) -> Callable[[], None]:
        """Times that were measured before, if they are of this version and this GPU; others make builds fail."""
        if folder is None:
            return lambda: None
        gpu = _present(this_gpu())
        device = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name)
        path = folder / f"tensorrt-{self.version}-{device}-sm{gpu.compute_capability}.cache"
        content = b""
        if path.exists():
            with opened(path) as file:
                content = file.read()
        cache = config.create_timing_cache(content) or config.create_timing_cache(b"")
        if not config.set_timing_cache(cache, False):
            config.set_timing_cache(config.create_timing_cache(b""), False)

        def keep() -> None:
            with whole_file(path) as temporary:
                temporary.write_bytes(bytes(config.get_timing_cache().serialize()))

        return keep


class TensorRTRTX(EngineMaker):
    """Engines for several kinds of GPU at once, made anywhere."""

    kind, title, needs_gpu = "tensorrt-rtx", "TensorRT-RTX", False
    # Turing works too, but has to be asked for.
    default_compute_capabilities = ("8.0", "8.6", "8.9", "12.0")

    @classmethod
    def load(cls) -> TensorRTRTX:
        """See ``EngineMaker.load``."""
        try:
            return cls(import_tensorrt_rtx())
        except (ImportError, OSError) as error:
            text = f"TensorRT-RTX is not installed ({error}): pip install 'dynamicseg[tensorrt-rtx]'"
            raise ImportError(text) from None

    def check(self, options: ExportOptions) -> None:
        """See ``EngineMaker.check``."""
        chosen = self._chosen(options)
        known = self._known()
        for name in chosen:
            if name not in known:
                raise ValueError(f"TensorRT-RTX {self.version} knows no GPUs of {name}: choose from {', '.join(known)}")
        if options.refit and this_gpu() is None:
            raise ValueError("TensorRT-RTX builds engines that can be refitted on a GPU alone: build without refit")
        if options.refit and len(chosen) != 1:
            raise ValueError(
                "an engine of TensorRT-RTX can be refitted if it is for one kind of GPU: choose just one "
                f"compute-capability of {', '.join(known)}"
            )

    def configure(self, config: Any, options: ExportOptions) -> Callable[[], None]:
        """See ``EngineMaker.configure``."""
        known, chosen = self._known(), self._chosen(options)
        config.num_compute_capabilities = len(chosen)
        for index, name in enumerate(chosen):
            config.set_compute_capability(known[name], index)
        return lambda: None

    def target(self, options: ExportOptions) -> dict[str, Any]:
        """See ``EngineMaker.target``."""
        return {
            "device": None,
            "compute_capabilities": list(self._chosen(options)),
            "flags": ["refit"] if options.refit else [],
        }

    def _chosen(self, options: ExportOptions) -> tuple[str, ...]:
        return options.compute_capabilities or self.default_compute_capabilities

    def _known(self) -> dict[str, Any]:
        """By version: ``SM120`` is 12.0."""
        members = self.trt.ComputeCapability.__members__
        return {f"{name[2:-1]}.{name[-1]}": value for name, value in members.items() if name.startswith("SM")}


MAKERS: dict[str, type[EngineMaker]] = {"tensorrt": TensorRT, "tensorrt-rtx": TensorRTRTX}


def _present(gpu: Gpu | None) -> Gpu:
    assert gpu is not None, "checked before"
    return gpu


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


_logs: dict[int, Any] = {}


def _log_of(trt: Any) -> Any:
    """One for each module and process: TensorRT keeps the first that it is given. ``lines`` are its errors."""
    if id(trt) not in _logs:

        class Log(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.lines: list[str] = []

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    self.lines.append(message)

        _logs[id(trt)] = Log()
    return _logs[id(trt)]


def _monitor(trt: Any, progress: Progress) -> Any:
    """Says which phase of the build runs, and how far it is: some take minutes."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(f"{phase_name.lower()}: {step + 1} of {self.steps.get(phase_name, step + 1)}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def system() -> dict[str, str]:
    """Where an engine was built, ready for JSON."""
    gpu = this_gpu()
    return {"os": platform.platform(), **({} if gpu is None else {"cuda_driver": gpu.driver})}
