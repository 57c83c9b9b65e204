"""Segmentation methods by name: ours, and what one would use in its place.

A method is written ``NAME`` or ``NAME:OPTION=VALUE:...``, as ``felzenszwalb:scale=200:min_size=50``. Known are
``dynamicseg``, with the options of ``Segmenter``, and with those of ``DEFAULTS``: ``felzenszwalb`` and ``slic`` from
scikit-image, and ``kmeans`` on the colours of the pixels (k-means++ and Lloyd's iterations, from SciPy). ``kmeans`` and
ours start from a seed.

torch is imported when ours is prepared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dynamicseg._words import did_you_mean

Segment: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]
"""From an image ``[H, W, C]`` to its labels, integers ``[H, W]``."""

OURS = "dynamicseg"
DEFAULTS: dict[str, dict[str, Any]] = {
    "felzenszwalb": {"scale": 300.0, "sigma": 0.8, "min_size": 100},
    "slic": {"n_segments": 100, "compactness": 10.0, "sigma": 0.0},
    "kmeans": {"k": 5, "iterations": 20},
}
METHODS = (OURS, *DEFAULTS)
SEEDED = (OURS, "kmeans")


@dataclass(frozen=True, eq=False)
class Method:
    """A method with its options.

    Attributes:
        text: as it was named.
        name: one of ``METHODS``.
        options: of the others all, of ours those that are not the preset's.
    """

    text: str
    name: str
    options: dict[str, Any]


def parse_method(text: str, ours: Mapping[str, Any] | None = None) -> Method:
    """The method that ``NAME:OPTION=VALUE:...`` names; ``ours`` are options of ours that the text may overrule.

    Raises:
        ValueError: there is no such method or option, or no value.
    """
    name, chosen = name_and_options(text, METHODS)
    options = dict(ours or {}) if name == OURS else dict(DEFAULTS[name])
    for option, value in chosen.items():
        if option == "seed":
            raise ValueError(f"method {text!r}: a seed is no option; methods run with as many seeds as are asked for")
        if name != OURS and option not in options:
            hint = did_you_mean(option, options)
            raise ValueError(f"method {text!r}: {name} has no option {option!r}, only {', '.join(options)}{hint}")
        if name != OURS and isinstance(value, (str, bool, type(None))):
            raise ValueError(f"method {text!r}: {option} wants a number")
        options[option] = value
    return Method(text, name, options)


def name_and_options(text: str, known: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """What ``NAME:OPTION=VALUE:...`` says; ValueError if the name is not among those known, or an option has no value.

    A value is a number, ``true``, ``false`` or ``null`` if it reads like one, and text otherwise.
    """
    name, *parts = (part.strip() for part in text.split(":"))
    if name not in known:
        raise ValueError(f"method {name!r}: choose from {', '.join(known)}{did_you_mean(name, known)}")
    options = {}
    for part in parts:
        option, equals, value = part.partition("=")
        if not (option and equals and value):
            raise ValueError(f"method {text!r}: {part!r} should be OPTION=VALUE")
        options[option] = _value(value)
    return name, options


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, (list, dict)) else value


def prepare(method: Method, seed: int) -> tuple[Segment, dict[str, Any]]:
    """The method as a function, and everything that decides what it does: resuming goes by it.

    Raises:
        ValueError: an option of ours is out of its range, or there is none of that name.
    """
    settings = {"method": method.name, "seed": seed if method.name in SEEDED else None}
    if method.name != OURS:
        skimage_or_scipy = "scipy" if method.name == "kmeans" else "scikit-image"
        versions = {name: version(name) for name in ("numpy", skimage_or_scipy)}
        return _OTHERS[method.name](method.options, seed), {**settings, "options": method.options, "versions": versions}
    from dynamicseg.segmenter import Segmenter

    try:
        segmenter = Segmenter(**{"seed": seed, **method.options})
    except (ValueError, TypeError) as error:
        raise ValueError(f"method {method.text!r}: {error}") from None
    config = segmenter.config.model_dump(mode="json")
    versions = {name: version(name) for name in ("numpy", "torch", "dynamicseg")}
    return (
        lambda image: segmenter.segment(image).labels,
        {**settings, "options": config, "versions": versions, "code": _code_digest()},
    )


def _felzenszwalb(options: Mapping[str, Any], seed: int) -> Segment:
    from skimage.segmentation import felzenszwalb

    return lambda image: np.asarray(felzenszwalb(image, channel_axis=-1, **options))


def _slic(options: Mapping[str, Any], seed: int) -> Segment:
    from skimage.segmentation import slic

    return lambda image: np.asarray(slic(image, channel_axis=-1, start_label=0, **options))


def _kmeans(options: Mapping[str, Any], seed: int) -> Segment:
    from scipy.cluster.vq import kmeans2

    def segment(image: NDArray[Any]) -> NDArray[Any]:
        colours = image.reshape(-1, image.shape[-1]).astype(np.float64)
        _, labels = kmeans2(
            colours, _at_most_colours(options["k"], colours), iter=options["iterations"], minit="++", seed=seed
        )
        return np.asarray(labels).reshape(image.shape[:2])

    return segment


def _at_most_colours(k: int, colours: NDArray[np.float64]) -> int:
    """``k``, or how many colours there are: with fewer than k, k-means++ finds no k centres."""
    # Telling all colours apart takes longer than k-means; a few pixels nearly always show k of them.
    for some in (colours[::97], colours):
        distinct = len(np.unique(some, axis=0))
        if distinct >= k:
            return k
    return distinct


_OTHERS: dict[str, Callable[[Mapping[str, Any], int], Segment]] = {
    "felzenszwalb": _felzenszwalb,
    "slic": _slic,
    "kmeans": _kmeans,
}


def _code_digest() -> str:
    """Of the sources that decide our labels: what an older state of the code made is not taken for today's."""
    import dynamicseg
    from dynamicseg import _native

    package = Path(dynamicseg.__file__).parent
    aside = {"bench", "evaluate", "export", "cli.py"}
    sources = [
        path
        for path in sorted(package.rglob("*"))
        if path.suffix in (".py", ".safetensors") and path.relative_to(package).parts[0] not in aside
    ]
    digest = hashlib.sha256()
    for path in [*sources, Path(_native.__file__)]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
