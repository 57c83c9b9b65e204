"""Does an exported file say what the PyTorch model says? Asked of the file itself, before it is put in place."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynamicseg.export.formats import INPUT, OUTPUT
from dynamicseg.inference.onnx_model import failure_of

Labels = Callable[[NDArray[np.uint8]], NDArray[np.int32]]
"""From an image ``[H, W, bands]`` to its label map ``[H, W]``."""


class TooLittleAgreement(ValueError):
    """The labels of an exported file are not those of its model; no file was written."""


@dataclass(frozen=True)
class Agreement:
    """How many labels of one form of a model are those of another.

    Attributes:
        share: of the pixels of all images, 0 to 1.
        worst: the same of the image that has the lowest.
    """

    share: float
    worst: float


def agreement(labels: Labels, wanted: Labels, images: Sequence[NDArray[np.uint8]]) -> Agreement:
    """Compares two forms of a model on images ``[H, W, bands]``."""
    equal, shares = 0, []
    for image in images:
        found, expected = labels(image), wanted(image)
        if found.shape != expected.shape:
            raise ValueError(
                f"the exported file gives labels {found.shape} of an image {image.shape}: please report it"
            )
        same = int(np.count_nonzero(found == expected))
        equal += same
        shares.append(same / expected.size)
    return Agreement(equal / sum(image.shape[0] * image.shape[1] for image in images), min(shares))


def check_agreement(found: Agreement, least: float, what: str) -> None:
    """Refuses what agrees too little.

    Raises:
        TooLittleAgreement: in one line, with both numbers and what to do.
    """
    if found.share < least:
        raise TooLittleAgreement(
            f"{what} agrees with the model in {100 * found.share:.3f} % of the pixels, {100 * least:g} % are wanted: "
            "no file was written; choose a higher precision, images like those of training, or another min-agreement"
        )


def onnx_labels(content: bytes, batch: int = 1) -> Labels:
    """What ONNX Runtime says on the CPU of an ONNX file, of the first image where it takes just so many in a batch.

    Raises:
        ValueError: ONNX Runtime cannot run it, at once or when it is asked for labels; in one line.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; a log would end up beside them on the screen
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common class for its errors
        raise _not_run(error) from None

    def labels(image: NDArray[np.uint8]) -> NDArray[np.int32]:
        try:
            found: Any = session.run([OUTPUT], {INPUT: np.repeat(image[None], batch, axis=0)})[0]
        except Exception as error:
            raise _not_run(error) from None
        return np.asarray(found[0], np.int32)

    return labels


def _not_run(error: Exception) -> ValueError:
    return ValueError(
        f"ONNX Runtime cannot run the graph ({failure_of(error)}): no file was written; choose other options, or "
        "install the versions that the package's extra names"
    )


def engine_labels(path: Path) -> Labels:
    """What an engine says on the GPU that is here, through the code that predicts with it."""
    predictor = importlib.import_module("dynamicseg.predict").load(path)

    def labels(image: NDArray[np.uint8]) -> NDArray[np.int32]:
        return np.asarray(predictor.predict(image).labels, np.int32)

    return labels
