"""How good segmentations are: protocols, readers of data sets, and the report of ``dynamicseg evaluate``."""

from __future__ import annotations

from dynamicseg.evaluate.datasets import DATASETS, Dataset, DatasetName, TruthItem, open_dataset
from dynamicseg.evaluate.overlaps import ImagePair
from dynamicseg.evaluate.report import PROTOCOLS, ProtocolName, Scores, evaluate, table

__all__ = [
    "DATASETS",
    "PROTOCOLS",
    "Dataset",
    "DatasetName",
    "ImagePair",
    "ProtocolName",
    "Scores",
    "TruthItem",
    "evaluate",
    "open_dataset",
    "table",
]
