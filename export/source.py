"""What is exported: a trained model, or, for engines, an ONNX file that was exported before."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from dynamicseg._files import one_line, opened
from dynamicseg.export.description import read_exported
from dynamicseg.model_description import ModelDescription
from dynamicseg.trained_model import SUFFIX, TrainedModel


@dataclass(frozen=True, eq=False)
class ModelSource:
    """A trained model.

    Attributes:
        model: with its network.
        sha256: of its file.
    """

    model: TrainedModel
    sha256: str

    @property
    def description(self) -> ModelDescription:
        """Of the model."""
        return self.model.description


@dataclass(frozen=True, eq=False)
class OnnxSource:
    """An ONNX file that ``export`` wrote.

    Attributes:
        path: of the file.
        graph: what it holds.
        description: of the model that it was made from.
        exported: what is known of its export.
    """

    path: Path
    graph: onnx.ModelProto
    description: ModelDescription
    exported: dict[str, Any]


def read_source(
    model: TrainedModel | str | os.PathLike[str], backbone: str | os.PathLike[str] | None = None
) -> ModelSource | OnnxSource:
    """Reads what is to be exported; ``backbone``: see ``TrainedModel.load``.

    Raises:
        ValueError, OSError: it is no such file, damaged, or cannot be read; in one line.
    """
    if backbone is not None and (isinstance(model, TrainedModel) or Path(model).suffix.lower() != SUFFIX):
        raise ValueError(f"the backbone is for {SUFFIX} files, which do not hold it: leave it out")
    if isinstance(model, TrainedModel):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"model{SUFFIX}")
            model.save(path)
            return ModelSource(model, _sha256(path))
    path = Path(model)
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return OnnxSource(path, *read_exported(path))
    if suffix != SUFFIX:
        raise ValueError(one_line(path, f"is no model: pass a {SUFFIX} file of dynamicseg train, or an exported .onnx"))
    trained = TrainedModel.load(path, backbone)
    return ModelSource(trained, _sha256(path))


def _sha256(path: Path) -> str:
    with opened(path) as file:
        return hashlib.sha256(file.read()).hexdigest()
