"""The one table of formats, and of the options that each takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from dynamicseg._words import did_you_mean

Precision = Literal["fp32", "fp16", "int8"]
Activations = Literal["uint8", "int8"]
HardwareCompatibility = Literal["ampere+", "same-compute-capability"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
INPUT, OUTPUT = "image", "labels"
"""What goes into every exported graph, uint8 ``[batch, height, width, bands]``, and comes out, int32 ``[batch, height,
width]``."""

ACTIVATIONS: tuple[Activations, ...] = get_args(Activations)
HARDWARE_COMPATIBILITIES: tuple[HardwareCompatibility, ...] = get_args(HardwareCompatibility)
MIN_AGREEMENT: Mapping[str, float] = {"fp32": 0.999, "fp16": 0.99, "int8": 0.95}
"""Share of pixels whose label must be that of the PyTorch model, unless another is chosen."""


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        title: its name in a sentence.
        suffix: of its files.
        extra: of this package, that installs what makes it.
        options: names of the fields of ``ExportOptions`` that it takes.
    """

    title: str
    suffix: str
    extra: str
    options: frozenset[str]


_PATHS = ("calibration", "images", "timing_cache", "refit_from")
_ALL = frozenset({"precision", "calibration", "images", "min_agreement", "dynamic", "size", "batch"})
_ENGINE = _ALL | {"min_size", "max_size", "workspace", "refit", "refit_from"}

FORMATS: Mapping[str, Format] = {
    "onnx": Format("ONNX", ".onnx", "export", _ALL | {"opset", "activations"}),
    "tensorrt": Format(
        "TensorRT",
        ".engine",
        "tensorrt",
        _ENGINE | {"optimization_level", "timing_cache", "version_compatible", "hardware_compatibility"},
    ),
    # Its timing cache has no effect, its engines have a form for several GPUs by themselves.
    "tensorrt-rtx": Format("TensorRT-RTX", ".engine", "tensorrt-rtx", _ENGINE | {"compute_capabilities"}),
}


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported; None leaves an option to the format. Made and checked by ``checked_options``."""

    precision: Precision = "fp32"
    calibration: Path | None = None
    """Folder of images on which the ranges of int8 are measured."""
    images: Path | None = None
    """Folder of images on which labels are compared; None: those of ``calibration``, or photos that are at hand."""
    min_agreement: float | None = None
    dynamic: bool = True
    """Any batch, height and width, within the limits of an engine's profile."""
    size: tuple[int, int] | None = None
    """Height and width: the only one if not dynamic, else the one that an engine is tuned for."""
    batch: int | None = None
    """Images at a time: just so many if not dynamic, else so many at the most in an engine."""
    opset: int | None = None
    activations: Activations | None = None
    """Of int8: ``"uint8"`` is finer and faster on CPUs, ``"int8"`` is what TensorRT takes."""
    min_size: tuple[int, int] | None = None
    max_size: tuple[int, int] | None = None
    workspace: float | None = None
    """GiB of scratch memory at the most."""
    optimization_level: int | None = None
    """0, quick to build, to 5, which tries everything."""
    timing_cache: Path | None = None
    """Folder in which measured times are kept for the next build."""
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility | None = None
    compute_capabilities: tuple[str, ...] | None = None
    """Of the GPUs that an engine is for, as ``"8.6"``."""
    refit: bool = False
    """The engine can take the weights of another model of the same shape."""
    refit_from: Path | None = None
    """An engine that takes the weights of this model, in place of building one."""

    @property
    def least_agreement(self) -> float:
        """The share of pixels that must have the label of the PyTorch model."""
        return MIN_AGREEMENT[self.precision] if self.min_agreement is None else self.min_agreement


def checked_format(name: str | None, path: Path) -> str:
    """The name of a format, taken from the suffix where none is given.

    Raises:
        ValueError: there is no such format, or the file has the suffix of another one.
    """
    if name is None:
        named = [known for known, kind in FORMATS.items() if kind.suffix == path.suffix.lower()]
        if len(named) != 1:
            choices = " or ".join(f"--to {known}" for known in named or FORMATS)
            raise ValueError(f"{path.name} does not say which format is wanted: choose {choices}")
        return named[0]
    if name not in FORMATS:
        raise ValueError(f"there is no format {name!r}: choose from {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")
    if path.suffix.lower() != FORMATS[name].suffix:
        raise ValueError(f"{path}: files of {FORMATS[name].title} end in {FORMATS[name].suffix}; name it so")
    return name


def checked_options(format_name: str, options: Mapping[str, Any]) -> ExportOptions:
    """The options of an export, checked against the format and against each other.

    Args:
        format_name: a key of ``FORMATS``.
        options: by field of ``ExportOptions``; what has its default value counts as not given.

    Raises:
        TypeError: there is no option of this name.
        ValueError: the format does not take it, it is out of range, or two do not go together; in one line.
    """
    defaults = {field.name: field.default for field in fields(ExportOptions)}
    for name, value in options.items():
        if name not in defaults:
            raise TypeError(f"no option is named {name!r}: choose from {', '.join(defaults)}")
        if value != defaults[name] and name not in FORMATS[format_name].options:
            takers = [known for known, kind in FORMATS.items() if name in kind.options]
            verb = "does" if len(takers) == 1 else "do"
            raise ValueError(f"{FORMATS[format_name].title} takes no {name}; only {' and '.join(takers)} {verb}")
    folders = {name: Path(options[name]) for name in _PATHS if options.get(name) is not None}
    chosen = ExportOptions(**{**options, **folders})
    _check_ranges(chosen)
    _check_together(chosen, engine=FORMATS[format_name].suffix == ".engine")
    return chosen


def _check_ranges(chosen: ExportOptions) -> None:
    if chosen.precision not in PRECISIONS:
        hint = did_you_mean(chosen.precision, PRECISIONS)
        raise ValueError(f"precision {chosen.precision!r}: choose from {', '.join(PRECISIONS)}{hint}")
    for name, known in (("hardware_compatibility", HARDWARE_COMPATIBILITIES), ("activations", ACTIVATIONS)):
        named = getattr(chosen, name)
        if named is not None and named not in known:
            raise ValueError(f"{name} {named!r}: choose from {', '.join(known)}{did_you_mean(named, known)}")
    for name, lowest, highest in (
        ("min_agreement", 0, 1),
        ("batch", 1, 4096),
        ("opset", 18, 22),
        ("workspace", 0.001, 1024),
        ("optimization_level", 0, 5),
    ):
        value = getattr(chosen, name)
        if value is not None and not lowest <= value <= highest:
            raise ValueError(f"{name} wants {lowest} to {highest}, not {value}")
    for name in ("size", "min_size", "max_size"):
        value = getattr(chosen, name)
        if value is not None and not all(1 <= side <= 1 << 16 for side in value):
            raise ValueError(f"{name} wants sides of 1 to {1 << 16}, not {value[0]}x{value[1]}")


def _check_together(chosen: ExportOptions, *, engine: bool) -> None:
    if chosen.precision == "int8" and chosen.calibration is None and chosen.refit_from is None:
        raise ValueError(
            "int8 wants calibration, a folder of images like those that the model will see: dynamicseg export "
            "model.safetensors -o model.onnx --precision int8 --calibration DIR (calibration=... in Python)"
        )
    if chosen.precision != "int8" and chosen.calibration is not None:
        raise ValueError(f"calibration is for int8, not for {chosen.precision}; labels are compared on images")
    if chosen.activations is not None and chosen.precision != "int8":
        raise ValueError(f"activations are chosen for int8, not for {chosen.precision}: leave them out")
    if not chosen.dynamic and chosen.size is None:
        raise ValueError("without dynamic sizes, size is wanted: --size HEIGHTxWIDTH (size=(height, width) in Python)")
    if not chosen.dynamic and (chosen.min_size or chosen.max_size):
        raise ValueError(
            "min_size and max_size are for dynamic sizes: leave them out, or --static (dynamic=False in Python)"
        )
    if chosen.dynamic and not engine and (chosen.size or chosen.batch):
        raise ValueError(
            "a dynamic ONNX file takes any size and batch: leave size and batch out, or choose --static "
            "(dynamic=False in Python)"
        )
    if chosen.refit_from is not None and (chosen.size or chosen.batch or chosen.min_size or chosen.max_size):
        raise ValueError("refit_from keeps the sizes and the batch of that engine: leave them out")
