"""ONNX files, run by ONNX Runtime on what it finds: CUDA, OpenVINO, the CPU; TensorRT when it is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg._files import one_line
from dynamicseg._words import did_you_mean, in_one_line
from dynamicseg.inference.cuda_driver import Gpu
from dynamicseg.inference.onnx_file import OnnxFile, read_onnx
from dynamicseg.inference.running import cuda_index
from dynamicseg.inference.tiles import check_fixed_size
from dynamicseg.memory import available_memory, usable_cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Short names of what ONNX Runtime can compute on, the one that is chosen first in front.

TensorRT stands last and is never chosen unless it is named: it builds an engine for every size of image, which takes
minutes at each start. A built engine is the better way to it."""

_INSTALLED_BY = {
    "cuda": "pip install onnxruntime-gpu",
    "tensorrt": "pip install onnxruntime-gpu, and TensorRT",
    "openvino": "pip install onnxruntime-openvino",
    "cpu": "pip install 'dynamicseg[predict]', or where there is no PyTorch, pip install onnxruntime",
}
_ON_GPU = ("cuda", "tensorrt")
_FATAL_ONLY = 4  # of ONNX Runtime's log, which would end up on the user's screen beside our own error


class OnnxModel:
    """An ONNX file in ONNX Runtime; see ``running.RunningModel``."""

    largest: tuple[int, int] | None = None

    def __init__(self, file: OnnxFile, session: Any, facts: Mapping[str, Any]) -> None:
        self._session = session
        self.contract = file.contract
        self.batch = file.shape[0]
        self.size = None if file.shape[1] is None or file.shape[2] is None else (file.shape[1], file.shape[2])
        self.bytes_per_pixel = file.contract.bytes_per_pixel
        self.facts = facts
        # Asked once: what ONNX Runtime has taken of a GPU, it keeps for the next image.
        self._free_on_gpu = None if facts["device"] == "cpu" else _free_on_gpu(facts["device"])

    @classmethod
    def load(
        cls, path: Path, *, providers: Sequence[str] | None = None, threads: int | None = None, device: str = "auto"
    ) -> OnnxModel:
        """Reads an exported model.

        Args:
            path: the file.
            providers: names of ``PROVIDERS``, the first that can be used is; None: the best that is there.
            threads: on the CPU, >= 1; None: as many as cores.
            device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

        Raises:
            ValueError: the file is no exported model, or a provider is not there.
            OSError: the file cannot be read.
            ImportError: ONNX Runtime is not installed.
            MemoryError: it takes images of one size only, and these do not fit.
        """
        runtime = import_runtime()
        wanted = _wanted(providers, device, runtime.get_available_providers())
        file = read_onnx(path)
        if not set(wanted) & set(_ON_GPU):
            _check_memory(path, file)
        options = session_options(runtime, threads or usable_cores())
        index = cuda_index(device) or 0
        session, used = _started(runtime, path, file, options, wanted, index)
        if used not in wanted:
            if providers is not None:
                raise ValueError(_unusable(wanted[0], runtime.__version__))
            raise ValueError(
                f"device {device}: ONNX Runtime {runtime.__version__} has {wanted[0]}, but that does not start here: "
                "its libraries or its device are missing; choose device auto or cpu"
            )
        facts = {
            "runtime": f"onnxruntime {runtime.__version__}",
            "provider": used,
            "device": f"cuda:{index}" if used in _ON_GPU else "cpu",
            "threads": options.intra_op_num_threads,
        }
        return cls(file, session, facts)

    def free_memory(self) -> int | None:
        """See ``RunningModel.free_memory``."""
        return available_memory() if self._free_on_gpu is None else self._free_on_gpu

    def labels(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """See ``RunningModel.labels``."""
        try:
            (labels,) = self._session.run(["labels"], {"image": np.ascontiguousarray(images)})
        except Exception as error:
            text = failure_of(error)
            if "alloc" in text.lower():
                height, width = images.shape[1:3]
                raise MemoryError(f"{width}x{height} pixels do not fit into memory: choose a smaller tile") from None
            raise ValueError(f"ONNX Runtime failed: {text}") from None
        return np.asarray(labels)


def import_runtime() -> Any:
    """ONNX Runtime, or an ImportError that says how to get it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"ONNX files need ONNX Runtime ({error}): {_INSTALLED_BY['cpu']}") from None
    onnxruntime.set_default_logger_severity(_FATAL_ONLY)
    return onnxruntime


def session_options(runtime: Any, threads: int) -> Any:
    """For sessions of ONNX files that others may have made."""
    options = runtime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    # Its own default is the cores of the machine, also where this process may use only some of them.
    options.intra_op_num_threads = threads
    # Its threads would go on spinning after a call, in the way of whatever the program does next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Else four bytes make it read the file in its own format, as another graph than that which was looked into.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return options


def _free_on_gpu(device: str) -> int | None:
    try:
        return Gpu(cuda_index(device) or 0).free_memory()
    except ValueError:  # ONNX Runtime finds a driver that we do not
        return None


def available_providers(runtime: Any) -> list[str]:
    """Short names of what this ONNX Runtime was built for, the one that is chosen first in front."""
    found = runtime.get_available_providers()
    return [name for name, known in PROVIDERS.items() if known in found]


def _check_memory(path: Path, file: OnnxFile) -> None:
    """Before ONNX Runtime starts, which at once computes what depends on nothing but the size of the image."""
    batch, height, width, _ = file.shape
    if height is None or width is None:
        return
    try:
        check_fixed_size(batch or 1, (height, width), file.contract.bytes_per_pixel, available_memory(), "cpu")
    except MemoryError as error:
        raise MemoryError(one_line(path, str(error))) from None


def _started(
    runtime: Any, path: Path, file: OnnxFile, options: Any, wanted: Sequence[str], index: int
) -> tuple[Any, str]:
    """A session on the first provider that works, and its name; ``cpu`` if it is none of those."""
    for name in wanted:
        provider = (PROVIDERS[name], {"device_id": index} if name in _ON_GPU else {})
        try:
            session = runtime.InferenceSession(file.content, options, providers=[provider], enable_fallback=0)
        except Exception as error:  # ONNX Runtime has no common class for its errors
            if name == wanted[-1]:
                text = f"cannot be run by ONNX Runtime {runtime.__version__} on {name}: {failure_of(error)}"
                raise ValueError(one_line(path, text)) from None
            continue
        if PROVIDERS[name] in session.get_providers():
            return session, name
    return session, "cpu"


def _wanted(providers: Sequence[str] | None, device: str, built_in: Sequence[str]) -> list[str]:
    """Short names of the providers to try, in this order."""
    index = cuda_index(device)  # refuses what is no device
    if providers is None:
        names = [name for name, known in PROVIDERS.items() if known in built_in and name != "tensorrt"]
        if device == "auto":
            return names
        names = [name for name in names if (name in _ON_GPU) == (index is not None)]
        if not names:
            there = ", ".join(name for name, known in PROVIDERS.items() if known in built_in)
            raise ValueError(
                f"device {device}: this ONNX Runtime computes on {there} alone; for an NVIDIA GPU "
                f"{_INSTALLED_BY['cuda']}, else choose device auto or cpu"
            )
        return names
    chosen = [providers] if isinstance(providers, str) else list(providers)
    for name in chosen:
        if name not in PROVIDERS:
            hint = did_you_mean(name, PROVIDERS)
            raise ValueError(f"provider {name!r}: choose from {', '.join(PROVIDERS)}{hint}")
        if PROVIDERS[name] not in built_in:
            raise ValueError(_unusable(name, None, built_in))
    if not chosen:
        raise ValueError(f"no provider is named: choose from {', '.join(PROVIDERS)}")
    return chosen


def _unusable(name: str, version: str | None, built_in: Sequence[str] | None = None) -> str:
    if version is not None:
        return (
            f"provider {name} is in ONNX Runtime {version}, but does not start here: its libraries or its device are "
            "missing; choose another, or leave the choice out"
        )
    there = "" if built_in is None else ", ".join(short for short, known in PROVIDERS.items() if known in built_in)
    has = f", which has {there}" if there else ""
    return f"provider {name} is not in this ONNX Runtime{has}: {_INSTALLED_BY[name]}, or choose another"


def failure_of(error: Exception) -> str:
    """ONNX Runtime's own message in one line, not too long."""
    return in_one_line(error).replace("[ONNXRuntimeError] : ", "")[:300]
