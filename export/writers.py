"""What writes each format; imported only when something is exported, for it needs the packages of an extra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from dynamicseg._files import one_line
from dynamicseg.export.description import described, read_exported, write_into
from dynamicseg.export.engine import write_engine
from dynamicseg.export.formats import ExportOptions
from dynamicseg.export.graph import compared_graph
from dynamicseg.export.source import ModelSource, OnnxSource, read_source

__all__ = ["read_source", "write"]


def write(
    source: ModelSource | OnnxSource, path: Path, kind: str, chosen: ExportOptions, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Writes one format, and returns what the file says of itself; see ``exporting.export``."""
    if kind == "onnx":
        return _write_onnx(source, path, chosen, progress)
    return write_engine(source, path, kind, chosen, progress)


def _write_onnx(
    source: ModelSource | OnnxSource, path: Path, chosen: ExportOptions, progress: Callable[[str], None]
) -> dict[str, Any]:
    if isinstance(source, OnnxSource):
        raise ValueError(one_line(source.path, "is ONNX already: pass the .safetensors model for another one"))
    made = compared_graph(source, chosen, symmetric=False, progress=progress)
    metadata = described(made.description, export=made.exported)
    write_into(made.graph, metadata)
    onnx.save_model(made.graph, path)
    read_exported(path)
    return metadata
