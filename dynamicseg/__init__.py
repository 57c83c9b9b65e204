"""Unsupervised image segmentation with a dynamically weighted loss."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamicseg import ops as ops
    from dynamicseg import reference as reference
    from dynamicseg.config import SegmenterConfig as SegmenterConfig
    from dynamicseg.losses import DynamicLoss as DynamicLoss
    from dynamicseg.predict import Predictor as Predictor
    from dynamicseg.predict import load as load
    from dynamicseg.prediction import Prediction as Prediction
    from dynamicseg.reference import DynamicLossOutput as DynamicLossOutput
    from dynamicseg.segmentation import Segmentation as Segmentation
    from dynamicseg.segmenter import Segmenter as Segmenter
    from dynamicseg.segmenter import segment as segment
    from dynamicseg.trained_model import TrainedModel as TrainedModel
    from dynamicseg.training.train import train as train

# Public names and where they are. They are loaded when first used: the command line answers `--help` without torch.
_HOMES = {
    "DynamicLoss": "dynamicseg.losses",
    "DynamicLossOutput": "dynamicseg.reference",
    "Prediction": "dynamicseg.prediction",
    "Predictor": "dynamicseg.predict",
    "Segmentation": "dynamicseg.segmentation",
    "Segmenter": "dynamicseg.segmenter",
    "SegmenterConfig": "dynamicseg.config",
    "TrainedModel": "dynamicseg.trained_model",
    "load": "dynamicseg.predict",
    "segment": "dynamicseg.segmenter",
    "train": "dynamicseg.training.train",
}

__all__ = [
    "DynamicLoss",
    "DynamicLossOutput",
    "Prediction",
    "Predictor",
    "Segmentation",
    "Segmenter",
    "SegmenterConfig",
    "TrainedModel",
    "load",
    "segment",
    "train",
]


_SUBMODULES = ("ops", "reference")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("dynamicseg.segmentation").package_version()
    if name in _SUBMODULES:
        return importlib.import_module(f"dynamicseg.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'dynamicseg' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *_SUBMODULES]
