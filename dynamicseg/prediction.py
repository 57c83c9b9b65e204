"""The result of predicting one image with a trained model: labels, what they came from, and the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg.label_numbers import draw_numbers
from dynamicseg.segmentation import LabelledImage, hex_colours, json_ready, versions

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Prediction(LabelledImage):
    """The labels that a trained model gives to one image.

    Attributes:
        labels: int32 ``[H, W]``: the model's own label numbers, the same in every image and every exported form. An
            image need not have all of them.
        n_labels: how many labels the model knows; ``labels`` are 0 to ``n_labels`` - 1.
        image: ``[H, W, C]`` as given; the overlay is drawn over it.
        colours: uint8 ``[n_labels, 3]``: of each label, the same in every image.
        model: the file: ``path``, ``format``, ``bytes``, ``sha256``, ``precision``.
        runtime: what ran it: ``runtime``, ``provider``, ``device``, ``threads``.
        tile: side of the tiles in pixels that the image went through in; None: in one piece.
        timings: seconds spent, by phase.
        source: where the image came from, None for an array.
        input: what ``describe_input`` tells of the file, empty for an array.
    """

    labels: NDArray[np.int32]
    n_labels: int
    image: NDArray[Any] = field(repr=False)
    colours: NDArray[np.uint8] = field(repr=False)
    model: Mapping[str, Any]
    runtime: Mapping[str, Any]
    timings: Mapping[str, float]
    tile: int | None = None
    source: str | None = None
    input: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        """Return one line: size, labels and source."""
        height, width = self.labels.shape
        source = f", source={self.source!r}" if self.source is not None else ""
        return f"Prediction({height}x{width}, n_labels={self.n_labels}{source})"

    @property
    def palette(self) -> NDArray[np.uint8]:
        """The colour of each label, uint8 ``[n_labels, 3]``."""
        return self.colours

    def numbered_overlay(self) -> NDArray[np.uint8]:
        """Return ``overlay()`` with the number of each label where it has most room, as uint8 ``[H, W, 3]``."""
        return draw_numbers(self.overlay(), self.labels)

    def _drawn(self) -> NDArray[np.uint8]:
        return self.numbered_overlay()

    def metadata(self) -> dict[str, Any]:
        """Return everything but the pixels, ready for strict JSON."""
        height, width, channels = self.image.shape
        described: dict[str, Any] = {
            "source": self.source,
            "input": self.input,
            "size": {"height": height, "width": width, "channels": channels},
            "dtype": str(self.image.dtype),
            "n_labels": self.n_labels,
            "areas": self.areas().tolist(),
            "colours": hex_colours(self.palette),
            "model": self.model,
            "runtime": self.runtime,
            "tile": self.tile,
            "timings": self.timings,
            "versions": versions(),
        }
        ready = json_ready(described)
        assert isinstance(ready, dict)
        return ready
