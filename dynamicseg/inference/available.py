"""What can run exported models here, in words for ``dynamicseg info``."""

from __future__ import annotations

from dynamicseg.inference.cuda_driver import Gpu
from dynamicseg.inference.onnx_model import available_providers, import_runtime
from dynamicseg.inference.tensorrt_library import KINDS, import_tensorrt


def runtimes() -> dict[str, str]:
    """Facts by name: ONNX Runtime and its providers, both kinds of TensorRT, the GPU for engines, and videos."""
    return {
        "onnx_runtime": _onnx_runtime(),
        **{f"engines_of_{kind}": _tensorrt(kind) for kind in KINDS},
        "videos": _videos(),
    }


def _onnx_runtime() -> str:
    try:
        runtime = import_runtime()
    except ImportError as error:
        return f"no: {error}"
    providers = available_providers(runtime)
    by_itself = [name for name in providers if name != "tensorrt"]
    first = f"tries {', then '.join(by_itself)}" if by_itself else "has no provider that is used by itself"
    named = "; tensorrt only when it is named, for it builds an engine at each start" if "tensorrt" in providers else ""
    return f"{runtime.__version__}, {first}{named}"


def _tensorrt(kind: str) -> str:
    try:
        module = import_tensorrt(kind)
        gpu = Gpu()
    except (ImportError, ValueError, MemoryError) as error:
        return f"no: {error}"
    return f"{module.__version__}, on {gpu.name} of compute capability {gpu.compute_capability}"


def _videos() -> str:
    from dynamicseg.video import import_av

    try:
        return f"PyAV {import_av().__version__}"
    except ImportError as error:
        return f"no: {error}"
