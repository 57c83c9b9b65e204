"""Which pretrained network gives features, and what it wants to see: frozen, validated, without torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicseg._words import did_you_mean

EFFICIENTNET_LITE0 = "efficientnet-lite0"
ONNX_SUFFIX = ".onnx"

# Of ImageNet's photos in 0..1, as most networks trained on them want to have taken off and divided by.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DEFAULT_MULTIPLE = 32

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class FeatureOptions(BaseModel):
    """A pretrained network; make one with ``feature_options``.

    An ONNX file takes one image at a time, float32 ``[1, 3, height, width]``: red, green and blue in 0..1, less
    ``mean``, over ``std``. Its maps are ``[1, channels, h, w]``, each over the whole image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    """``"efficientnet-lite0"``, or the path of an ONNX file."""
    outputs: tuple[str, ...] = ()
    """Names of the outputs of the ONNX file that are taken."""
    mean: tuple[_Number, _Number, _Number] = _IMAGENET_MEAN
    std: tuple[_Positive, _Positive, _Positive] = _IMAGENET_STD
    multiple: Annotated[int, Field(ge=1, le=1024)] = _DEFAULT_MULTIPLE
    """Height and width that the network sees are multiples of this, unless its file fixes them."""
    sha256: str | None = None
    """Of the file with the weights, once it has been opened: other weights are other features."""
    cache: Annotated[str | None, Field(exclude=True)] = None
    """Folder that keeps feature maps of images; it changes no result, and is no part of what is written down."""

    @property
    def is_onnx(self) -> bool:
        """Whether it is a file, and not a network that a package carries."""
        return self.source.lower().endswith(ONNX_SUFFIX)


def feature_options(
    source: str | os.PathLike[str] | None,
    *,
    outputs: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    multiple: int | None = None,
    cache: str | os.PathLike[str] | None = None,
) -> FeatureOptions | None:
    """The options of a source, with some chosen; None leaves one to its default. Without a source there are none.

    Raises:
        ValueError: there is no such source, or an option is out of its range or not for this source; in one line.
        TypeError: the source is no name and no path.
    """
    of_file = {"outputs": outputs, "mean": mean, "std": std, "multiple": multiple}
    chosen: dict[str, Any] = {name: value for name, value in of_file.items() if value is not None}
    if source is None:
        if chosen or cache is not None:
            name = next(iter([*chosen, "cache"]))
            raise ValueError(
                f"feature_{name} is of no use without features: choose {EFFICIENTNET_LITE0} or an ONNX file"
            )
        return None
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"features is {source!r}: pass {EFFICIENTNET_LITE0!r} or the path of an ONNX file")
    source = os.fspath(source)
    if not source.lower().endswith(ONNX_SUFFIX):
        if source != EFFICIENTNET_LITE0:
            hint = did_you_mean(source, [EFFICIENTNET_LITE0])
            raise ValueError(f"features {source!r}: choose {EFFICIENTNET_LITE0} or an ONNX file, FILE.onnx{hint}")
        if chosen:
            name = next(iter(chosen))
            raise ValueError(f"feature_{name} is for ONNX files; {source} has its own: leave it out")
    for name, value in chosen.items():
        if name != "multiple":
            chosen[name] = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    try:
        return FeatureOptions(source=source, cache=None if cache is None else os.fspath(cache), **chosen)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        wanted = {"outputs": "names of outputs", "multiple": "a whole number from 1 to 1024"}.get(
            name, "three numbers, above 0 for std"
        )
        raise ValueError(f"feature_{name} wants {wanted}, not {chosen.get(name)!r}") from None
