"""The options of training one network for a set of images: frozen, and validated once."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamicseg.config import Precision, problem_in_words
from dynamicseg.features.options import FeatureOptions, feature_options
from dynamicseg.inference.contract import MAX_LABELS
from dynamicseg.model_description import NetworkOptions
from dynamicseg.weighting import DEFAULT_MU, Weighting


class TrainingConfig(BaseModel):
    """Everything that decides a training, apart from the images. Make one with ``configure_training``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    n_labels: Annotated[int, Field(ge=1, le=MAX_LABELS)]
    """The model has so many labels, or fewer where the images do not need them."""
    network: NetworkOptions
    weighting: Weighting
    mu: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Constant of the weighting."""
    steps: Annotated[int, Field(ge=1)]
    """Training ends after so many steps at the latest; the learning rate falls to 0 on the way there."""
    time_budget: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    """Seconds for all of it, the final statistics included. The learning rate then falls with the time, if that is
    shorter than the steps, so that two runs differ."""
    batch_size: Annotated[int, Field(ge=1)]
    """Crops in a step, each of another image as far as there are enough."""
    crop_size: Annotated[int, Field(ge=8)]
    """Height and width of a crop, in pixels; smaller images are mirrored at their borders."""
    mirror: bool
    """Every second crop is mirrored, left to right."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    superpixel_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Scale of the superpixels within which labels are kept consistent; 0: no superpixels."""
    features: FeatureOptions | None
    """Of a pretrained network, which the trained one sees beside the image; None: there are none."""
    held_out: Annotated[float, Field(ge=0, lt=1)]
    """The share of the images that are not trained on: training ends when labels of these get no better."""
    patience: Annotated[int, Field(ge=1)]
    """Training ends after so many looks at the images held out without a better score."""
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
    precision: Precision


_DEFAULTS: dict[str, Any] = {
    "n_labels": 16,
    "weighting": "scf",
    "steps": 1000,
    "time_budget": None,
    "batch_size": 4,
    "crop_size": 256,
    "mirror": True,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "superpixel_scale": 20.0,
    "features": None,
    "held_out": 0.1,
    "patience": 5,
    "seed": 0,
    "device": "auto",
    "precision": "auto",
}
# On frames of a drive half the resolution scored no worse than the whole, at a quarter of the work.
_NETWORK_DEFAULTS: dict[str, Any] = {"width": 32, "depth": 3, "order": "norm_relu", "stride": 2}
_OF_FEATURES = ("outputs", "mean", "std", "multiple")
_FEATURE_OPTIONS = tuple(f"feature_{name}" for name in _OF_FEATURES)
OPTIONS = (*TrainingConfig.model_fields, *_FEATURE_OPTIONS, *NetworkOptions.model_fields)


def configure_training(**options: Any) -> TrainingConfig:
    """The configuration with some fields chosen, those of the network among them; None leaves a field to its default.

    ``features`` is ``"efficientnet-lite0"`` or the path of an ONNX file, and ``feature_outputs``, ``feature_mean``,
    ``feature_std`` and ``feature_multiple`` say what the file wants, see ``features.options.FeatureOptions``.

    Raises:
        ValueError: a field has a value out of its range, one line for all of them.
        TypeError: there is no such field.
    """
    # How many planes of features there are depends on the backbone.
    names = [name for name in OPTIONS if name not in ("network", "feature_planes")]
    unknown = sorted(set(options) - set(names))
    if unknown:
        raise TypeError(f"no option is named {unknown[0]!r}: choose from {', '.join(names)}")
    chosen = {name: value for name, value in options.items() if value is not None}
    chosen["features"] = feature_options(
        chosen.get("features"), **{name: chosen.pop(f"feature_{name}", None) for name in _OF_FEATURES}
    )
    of_network = {name: value for name, value in chosen.items() if name in NetworkOptions.model_fields}
    fields = _DEFAULTS | {name: value for name, value in chosen.items() if name not in of_network}
    if "mu" not in fields:
        # So that continuity has weight 1 while all labels are alive, however many there are.
        dynamic = fields["weighting"] in ("fsf", "scf") and isinstance(fields["n_labels"], int)
        fields["mu"] = float(max(1, fields["n_labels"])) if dynamic else DEFAULT_MU["fixed"]
    try:
        return TrainingConfig(network=NetworkOptions(**_NETWORK_DEFAULTS | of_network), **fields)
    except ValidationError as error:
        raise ValueError("; ".join(problem_in_words(problem) for problem in error.errors())) from None
