"""The modules of TensorRT and TensorRT-RTX, wherever they come from."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from pathlib import Path
from typing import Any

KINDS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
"""Kinds of engines, and the names of what runs them."""

_INSTALLED_BY = {
    "tensorrt": "pip install 'dynamicseg[tensorrt]'; on a Jetson it comes with JetPack",
    "tensorrt-rtx": "pip install 'dynamicseg[tensorrt-rtx]'",
}
# TensorRT-RTX has its bindings on the package index; its libraries come with ONNX Runtime's provider, to be loaded in
# this order.
_RTX_CARRIER = "onnxruntime_ep_nv_tensorrt_rtx"
_RTX_LIBRARIES = ("libcudart.so", "libtensorrt_rtx.so", "libtensorrt_onnxparser_rtx.so")


def import_tensorrt(kind: str) -> Any:
    """The module of a kind of engine, or an ImportError that says how to get it."""
    try:
        if kind == "tensorrt":
            return importlib.import_module("tensorrt")
        return import_tensorrt_rtx()
    except (ImportError, OSError) as error:
        text = f"engines of this kind need {KINDS[kind]} ({error}): {_INSTALLED_BY[kind]}"
        raise ImportError(text) from None


def import_tensorrt_rtx() -> Any:
    """The module of TensorRT-RTX; libraries that another package carries are loaded first. ImportError or OSError."""
    try:
        return importlib.import_module("tensorrt_rtx")
    except ImportError:
        _load_carried_libraries()
    return importlib.import_module("tensorrt_rtx_bindings")


def _load_carried_libraries() -> None:
    found = importlib.util.find_spec(_RTX_CARRIER)
    if found is None or found.origin is None:
        raise ImportError(f"no package {_RTX_CARRIER}")
    folder = Path(found.origin).parent
    for name in _RTX_LIBRARIES:
        files = sorted(folder.glob(f"{name}*"))
        if not files:
            raise ImportError(f"{folder} holds no {name}")
        ctypes.CDLL(str(files[0]), mode=ctypes.RTLD_GLOBAL)
