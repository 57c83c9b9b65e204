"""The configuration of a segmenter: frozen, and validated once."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicseg._words import did_you_mean
from dynamicseg.features.options import EFFICIENTNET_LITE0, FeatureOptions
from dynamicseg.terms import Continuity
from dynamicseg.weighting import DEFAULT_MU, Weighting

Preset = Literal["fast", "quality", "pretrained", "paper"]
Precision = Literal["auto", "float32", "bfloat16"]

PRESETS: tuple[Preset, ...] = get_args(Preset)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class SegmenterConfig(BaseModel):
    """Everything that decides a segmentation, apart from the image.

    Make one with ``configure``, which fills in what a preset leaves open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    preset: Preset
    weighting: Weighting
    mu: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Constant of the weighting."""
    continuity: Continuity
    diagonals: bool
    """Whether diagonal neighbours count in the continuity as well."""
    label_floor: Annotated[int, Field(ge=1)] | Literal["auto"]
    """The weighting takes the number of labels to be at least this. ``"auto"``: as many as colours fall into."""
    guide_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """What a guide counts: its cross-entropy in the loss, and in a consensus its vote."""
    guide_fades: bool
    """Whether the guide counts less in the loss from step to step, and nothing in the last."""
    max_steps: Annotated[int, Field(ge=1)]
    """Training ends after this many steps at the latest."""
    stop_labels: Annotated[int, Field(ge=1)]
    """Training ends after the first step with this many labels or fewer."""
    min_labels: Annotated[int, Field(ge=1)] | None
    """The result has so many labels or more. None: as many as it finds."""
    max_labels: Annotated[int, Field(ge=1)] | None
    """The result has so many labels or fewer. None: as many as it finds."""
    time_budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    """Seconds for one image, reading included: no step is begun that would end later. None: as long as it takes."""
    max_side: Annotated[int, Field(ge=2)] | None
    """Images whose longer side is larger are segmented at this size. None: every image at its own."""
    channels: Annotated[int, Field(ge=1)]
    """Candidate labels, and width of every hidden layer."""
    depth: Annotated[int, Field(ge=1)]
    """Number of 3x3 convolutions."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    superpixel_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    """Scale of the superpixels within which labels are kept consistent; None: no superpixels."""
    superpixel_sigma: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    superpixel_min_size: Annotated[int, Field(ge=1)]
    regions: Literal["labels", "consensus"]
    """Of what the result is made: the network's labels, or regions on which they and other segmentations agree."""
    area_exponent: Annotated[float, Field(ge=0, le=2)]
    """Of ``"consensus"``: below 1 small regions count for more, see ``consensus.consensus_regions``."""
    features: FeatureOptions | None
    """Of a pretrained network: with regions by consensus they decide with the colours what belongs together; where the
    result consists of the network's labels, the network sees them beside the image. None: there are none."""
    loss: Literal["fused", "published"]
    """``"published"``: in plain PyTorch, in the operations of the published scripts, for their very numbers."""
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
    precision: Precision
    """Of the convolutions and the response map; parameters and sums are float32. ``"auto"``: see ``Segmenter``."""


# The published network and schedule.
_PAPER: dict[str, Any] = {
    "weighting": "fsf",
    "max_steps": 1000,
    "stop_labels": 3,
    "min_labels": None,
    "max_labels": None,
    "channels": 100,
    "depth": 2,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "precision": "float32",
    "superpixel_scale": None,
    "superpixel_sigma": 0.8,
    "superpixel_min_size": 20,
    "regions": "labels",
    "area_exponent": 0.8,
    "features": None,
    "loss": "published",
}
# Scores on BSDS500 train peak between 8 and 16 steps when labels are kept consistent within superpixels, and fall
# afterwards.
_FAST: dict[str, Any] = {
    **_PAPER,
    "weighting": "scf",
    "max_steps": 12,
    "precision": "auto",
    "superpixel_scale": 20.0,
    "regions": "consensus",
    "loss": "fused",
}
# Small regions are better outlined above finer superpixels; more networks or more steps have not helped.
_QUALITY: dict[str, Any] = {**_FAST, "superpixel_scale": 10.0, "superpixel_min_size": 10}
_PRETRAINED: dict[str, Any] = {**_QUALITY, "features": FeatureOptions(source=EFFICIENTNET_LITE0)}
_PRESETS: dict[str, dict[str, Any]] = {
    "fast": _FAST,
    "quality": _QUALITY,
    "pretrained": _PRETRAINED,
    "paper": _PAPER,
}
_OF_NO_PRESET: dict[str, Any] = {
    "seed": 0,
    "device": "auto",
    "time_budget": None,
    "max_side": None,
    "continuity": "l1",
    "diagonals": False,
    "label_floor": 1,
    "guide_weight": 1.0,
    "guide_fades": True,
}

_WANTED = {"device": "auto, cpu, cuda or cuda:N", "label_floor": "a whole number, at least 1, or auto"}


def configure(preset: str = "fast", **options: Any) -> SegmenterConfig:
    """The configuration of a preset, with some fields chosen; None leaves a field to the preset.

    Raises:
        ValueError: a field has a value out of its range, one line for all of them.
        TypeError: there is no such field.
    """
    if preset not in _PRESETS:
        choices = f"{', '.join(PRESETS[:-1])} or {PRESETS[-1]}"
        raise ValueError(f"preset {preset!r}: choose {choices}{did_you_mean(preset, _PRESETS)}")
    unknown = sorted(set(options) - set(SegmenterConfig.model_fields))
    if unknown:
        raise TypeError(f"no option is named {unknown[0]!r}: choose from {', '.join(SegmenterConfig.model_fields)}")
    chosen = {name: value for name, value in options.items() if value is not None}
    fields = {**_OF_NO_PRESET, **_PRESETS[preset], **chosen, "preset": preset}
    published_numbers = fields["precision"] == "float32" and fields["superpixel_scale"] is None
    if "loss" not in chosen and not (published_numbers and _has_published_terms(fields)):
        fields["loss"] = "fused"
    if "mu" not in fields and fields["weighting"] in DEFAULT_MU:
        fields["mu"] = DEFAULT_MU[fields["weighting"]]
    elif "mu" not in fields:
        fields["mu"] = 1.0  # the weighting is refused below, and it alone should be named
    counts = fields["min_labels"], fields["channels"]
    if "stop_labels" not in chosen and fields["regions"] == "labels" and all(isinstance(n, int) for n in counts):
        fields["stop_labels"] = max(1, min(counts[0], counts[1] - 1))  # an untrained network may have all channels
    try:
        config = SegmenterConfig(**fields)
    except ValidationError as error:
        problems = dict.fromkeys(problem_in_words(problem) for problem in error.errors())
        raise ValueError("; ".join(problems)) from None
    if config.min_labels is not None and config.max_labels is not None and config.min_labels > config.max_labels:
        raise ValueError(f"min_labels wants at most max_labels ({config.max_labels}), not {config.min_labels}")
    if config.regions == "labels" and "area_exponent" in chosen:
        raise ValueError(f"area_exponent is for regions by consensus, which the preset {preset} does not have")
    if config.regions == "consensus" and config.superpixel_scale is None:
        raise ValueError("regions 'consensus' are put together from superpixels: choose a superpixel_scale")
    if config.loss == "published" and config.superpixel_scale is not None:
        raise ValueError("loss 'published' knows no superpixels: choose 'fused', or the preset paper")
    if config.loss == "published" and not _has_published_terms(fields):
        raise ValueError("loss 'published' has no Huber continuity, diagonals or label floor: choose 'fused'")
    return config


def guided(config: SegmenterConfig) -> SegmenterConfig:
    """The configuration for an image with scribbles, a guide or a mask, which the published loss does not know."""
    return config.model_copy(update={"loss": "fused"})


def _has_published_terms(fields: dict[str, Any]) -> bool:
    return bool(fields["continuity"] == "l1" and not fields["diagonals"] and fields["label_floor"] == 1)


def problem_in_words(problem: Any) -> str:
    """What a field of a configuration wants, and what it got instead, from an entry of ``ValidationError.errors``."""
    if not problem["loc"]:  # it is about several fields
        return str(problem["msg"]).removeprefix("Value error, ")
    field = str(problem["loc"][0])
    wanted = _WANTED.get(field) or problem["msg"].removeprefix("Input should be ")
    wanted = wanted.replace("greater than or equal to", "at least").replace("a valid integer", "a whole number")
    wanted = wanted.replace("greater than", "more than")
    known = re.findall(r"'([^']+)'", wanted) if problem["type"] == "literal_error" else []
    return f"{field} wants {wanted}, not {problem['input']!r}{did_you_mean(problem['input'], known)}"
