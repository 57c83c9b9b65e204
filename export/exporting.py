"""``export``: from a trained model to a file for another runtime, made aside, compared, and only then put in place."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamicseg._files import one_line, os_error
from dynamicseg.export.formats import FORMATS, checked_format, checked_options

if TYPE_CHECKING:
    from dynamicseg.trained_model import TrainedModel

Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Exported:
    """What an export made.

    Attributes:
        path: the file.
        format: a key of ``FORMATS``.
        metadata: all that the file says of itself; ``metadata["export"]`` is about the export.
    """

    path: Path
    format: str
    metadata: Mapping[str, Any]

    @property
    def agreement(self) -> float | None:
        """Share of pixels with the label of the PyTorch model, 0 to 1; None: an engine that could not be run here."""
        share: float | None = self.metadata["export"]["agreement"]
        return share

    @property
    def not_compared(self) -> str | None:
        """Why an engine could not be run here; None if it was."""
        reason: str | None = self.metadata["export"].get("not_compared")
        return reason

    def summary(self) -> list[str]:
        """Lines for a person: what was written, and how far it agrees with the model."""
        exported = self.metadata["export"]
        images = exported["images"]["source"]
        lines = [
            f"{self.path}: {FORMATS[self.format].title}, {exported['precision']}, {self.path.stat().st_size} bytes"
        ]
        if self.agreement is not None:
            share = f"{100 * self.agreement:.3f} %"
            lines.append(
                f"labels as the PyTorch model in {share} of the pixels, by {exported['compared_by']}, on {images}"
            )
            return lines
        share = f"{100 * exported['graph_agreement']:.3f} %"
        lines.append(f"the engine was not run: {self.not_compared}; copy it together with {self.path.name}.json")
        lines.append(f"its graph gives the labels of the PyTorch model in {share} of the pixels, on {images}")
        return lines


def export(
    model: TrainedModel | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    progress: Progress | None = None,
    backbone: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Exported:
    """Exports a trained model, for images of uint8 ``[batch, height, width, bands]`` to labels int32.

    >>> export("model.safetensors", "model.onnx", precision="int8", calibration="photos")

    The new file is run on real images beside the PyTorch model, and takes its place only if enough labels are the same.
    An engine that cannot be run here, for want of its GPU, says so; its graph is compared in any case.

    Args:
        model: a trained model, or its file; an engine is also built from an ONNX file that this function wrote.
        path: the new file, in the suffix of its format; an engine gets ``<path>.json`` beside it.
        format: a key of ``FORMATS``; by default what the suffix says.
        progress: called with a line on what is being done.
        backbone: of a file of a model that sees features of a network in an ONNX file: that file; by default the one of
            its name beside the model.
        **options: fields of ``formats.ExportOptions``, as far as the format takes them.

    Raises:
        ValueError: the model is none, an option is wrong, the runtime refuses the graph, or too few labels agree.
        TypeError: there is no such option.
        OSError: a file cannot be read or written.
        ImportError: what makes this format is not installed.
    """
    path = Path(path)
    name = checked_format(format, path)
    chosen = checked_options(name, options)
    tell = progress or (lambda line: None)
    try:
        writers = importlib.import_module("dynamicseg.export.writers")
    except ImportError as error:
        extra = FORMATS[name].extra
        text = (
            f"{FORMATS[name].title} needs a package that is not installed ({error}): pip install 'dynamicseg[{extra}]'"
        )
        raise ImportError(text) from None
    source = writers.read_source(model, backbone)
    with _aside(path) as aside:
        metadata = writers.write(source, aside, name, chosen, tell)
    return Exported(path, name, metadata)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A path of the same name in a hidden folder beside ``path``: what is written there moves when the block ends.

    If it is left by an exception, nothing moves. Of several files, the one named is moved last.
    """
    folder = path.parent
    if path.is_dir():
        raise IsADirectoryError(one_line(path, "is a folder; name a file"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hidden = tempfile.TemporaryDirectory(dir=folder, prefix=".dynamicseg-export-")
    except OSError as error:
        raise os_error(folder, "cannot be made or written to", error) from error
    with hidden as inside:
        yield Path(inside, path.name)
        try:
            for file in sorted(Path(inside).iterdir(), key=lambda file: file.name == path.name):
                os.replace(file, folder / file.name)
        except OSError as error:
            raise os_error(folder, f"cannot write {path.name} there", error) from error
