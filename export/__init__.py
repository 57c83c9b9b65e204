"""Trained models as files for other runtimes: ONNX, TensorRT, TensorRT-RTX."""

from __future__ import annotations

from dynamicseg.export.exporting import Exported, export
from dynamicseg.export.formats import FORMATS

__all__ = ["FORMATS", "Exported", "export"]
