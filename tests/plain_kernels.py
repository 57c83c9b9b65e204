"""Runs native kernels on memory of Python's own, without NumPy or PyTorch, and prints what they give as JSON.

For emulated processors, on which other packages take minutes to start, or do not start. Argument: an instruction set.
"""

from __future__ import annotations

import json
import random
import sys
from array import array
from typing import Any, Literal, TypeAlias

from dynamicseg import _native

Outputs: TypeAlias = dict[str, list[Any]]

CHANNELS, HEIGHT, WIDTH = 19, 7, 13
PIXELS = HEIGHT * WIDTH
SHAPE = (1, CHANNELS, HEIGHT, WIDTH)
STRIDES = {
    "contiguous": (CHANNELS * PIXELS, PIXELS, WIDTH, 1),
    "channels_last": (CHANNELS * PIXELS, 1, WIDTH * CHANNELS, CHANNELS),
}


def address(values: array[Any]) -> int:
    return values.buffer_info()[0]


def random_values(count: int) -> array[float]:
    source = random.Random(0)
    return array("f", (source.gauss(0, 2) for _ in range(count)))


def dynamic_loss(memory_format: Literal["contiguous", "channels_last"]) -> Outputs:
    x = random_values(CHANNELS * PIXELS)
    outputs: dict[str, array[Any]] = {
        "labels": array("q", bytes(8 * PIXELS)),
        "logsumexp": array("f", bytes(4 * PIXELS)),
    }
    statistics = ("similarity", "continuity", "weight", "loss", "scribble_cross_entropy", "guide_cross_entropy")
    outputs |= {name: array("f", [0.0]) for name in statistics} | {"label_counts": array("q", [0])}
    outputs["grad_x"] = array("f", bytes(4 * len(x)))
    _native.dynamic_loss(
        _native.DynamicLossParams(
            x=address(x),
            dtype="float32",
            format=memory_format,
            shape=SHAPE,
            strides=STRIDES[memory_format],
            mask=0,
            superpixels=0,
            superpixel_count=0,
            scribbles=0,
            guide=0,
            guide_weight=0,
            scribble_weight=0.5,
            weighting="fsf",
            mu=15.0,
            label_floor=1,
            continuity_kind="l1",
            diagonals=True,
            grad_strides=STRIDES[memory_format],
            grad_loss=address(array_of_one),
            **{name: address(values) for name, values in outputs.items()},
        )
    )
    return {name: values.tolist() for name, values in outputs.items()}


def relu_batch_norm() -> Outputs:
    x = random_values(CHANNELS * PIXELS)
    strides = STRIDES["channels_last"]
    weight, bias = array("f", [1.5] * CHANNELS), array("f", [0.5] * CHANNELS)
    outputs = {"y": array("f", bytes(4 * len(x)))}
    outputs |= {name: array("f", bytes(4 * CHANNELS)) for name in ("mean", "rstd")}
    none = dict.fromkeys(("grad_y", "grad_x", "grad_weight", "grad_bias"), 0)
    _native.relu_batch_norm(
        _native.ReluBatchNormParams(
            x=address(x),
            dtype="float32",
            format="channels_last",
            shape=SHAPE,
            strides=strides,
            relu=True,
            eps=1e-5,
            weight=address(weight),
            bias=address(bias),
            y_strides=strides,
            grad_y_strides=(0, 0, 0, 0),
            grad_x_strides=(0, 0, 0, 0),
            **{name: address(values) for name, values in outputs.items()},
            **none,
        )
    )
    return {name: values.tolist() for name, values in outputs.items()}


def felzenszwalb() -> Outputs:
    image, segments = random_values(PIXELS * 3), array("q", bytes(8 * PIXELS))
    _native.felzenszwalb(
        image=address(image),
        shape=(HEIGHT, WIDTH, 3),
        scales=[1.0],
        min_sizes=[2],
        wide_edges=False,
        segments=address(segments),
    )
    return {"segments": segments.tolist()}


if __name__ == "__main__":
    array_of_one = array("f", [1.0])
    _native.set_instruction_set(sys.argv[1])
    results = {
        "contiguous": dynamic_loss("contiguous"),
        "channels_last": dynamic_loss("channels_last"),
        "relu_batch_norm": relu_batch_norm(),
        "felzenszwalb": felzenszwalb(),
    }
    print(json.dumps({"available": _native.available_instruction_sets(), "results": results}))
