"""Wrong arguments of ``ops.dynamic_loss``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dynamicseg.ops import dynamic_loss, dynamic_loss_and_grad


def a_map() -> Tensor:
    return torch.zeros(2, 3, 4, 5)


A_MASK = torch.ones(2, 4, 5, dtype=torch.bool)
LABELS = torch.zeros(2, 4, 5, dtype=torch.int64)


def call(**options: Any) -> Callable[[], object]:
    return lambda: dynamic_loss(a_map(), **options)


# A call, and the kind of error, what was passed, and what should have been.
MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str, str]] = {
    "array": (lambda: dynamic_loss(np.zeros((1, 2, 3, 4))), TypeError, "ndarray", "torch.Tensor"),  # type: ignore[arg-type]
    "3 dimensions": (lambda: dynamic_loss(a_map()[0]), ValueError, "[3, 4, 5]", "[B, C, H, W]"),
    "5 dimensions": (lambda: dynamic_loss(a_map()[None]), ValueError, "[1, 2, 3, 4, 5]", "[B, C, H, W]"),
    "no channel": (lambda: dynamic_loss(a_map()[:, :0]), ValueError, "[2, 0, 4, 5]", "C >= 1"),
    "float16": (lambda: dynamic_loss(a_map().half()), TypeError, "torch.float16", "bfloat16"),
    "int64": (lambda: dynamic_loss(a_map().long()), TypeError, "torch.int64", "float32"),
    "weighting": (lambda: dynamic_loss(a_map(), weighting="FSF"), ValueError, "'FSF'", "fsf, scf, fixed"),  # type: ignore[arg-type]
    "mu 0": (lambda: dynamic_loss(a_map(), mu=0), ValueError, "mu is 0.0", "> 0"),
    "mu negative": (lambda: dynamic_loss(a_map(), mu=-1), ValueError, "mu is -1.0", "> 0"),
    "mu nan": (lambda: dynamic_loss(a_map(), mu=math.nan), ValueError, "mu is nan", "finite"),
    "mu inf": (lambda: dynamic_loss(a_map(), mu=math.inf), ValueError, "mu is inf", "finite"),
    "mask array": (lambda: dynamic_loss(a_map(), mask=A_MASK.numpy()), TypeError, "ndarray", "bool tensor"),  # type: ignore[arg-type]
    "mask uint8": (lambda: dynamic_loss(a_map(), mask=A_MASK.byte()), TypeError, "torch.uint8", "bool tensor"),
    "mask without batch": (lambda: dynamic_loss(a_map(), mask=A_MASK[0]), ValueError, "[4, 5]", "[B, H, W]"),
    "mask transposed": (lambda: dynamic_loss(a_map(), mask=A_MASK.mT), ValueError, "[2, 5, 4]", "[B, H, W]"),
    "mask elsewhere": (lambda: dynamic_loss(a_map(), mask=A_MASK.to("meta")), ValueError, "meta", "move"),
    "superpixels array": (
        lambda: dynamic_loss(a_map(), superpixels=A_MASK.numpy()),  # type: ignore[arg-type]
        TypeError,
        "ndarray",
        "int64 tensor",
    ),
    "superpixels int32": (
        lambda: dynamic_loss(a_map(), superpixels=A_MASK.int()),
        TypeError,
        "torch.int32",
        "int64 tensor",
    ),
    "superpixels without batch": (
        lambda: dynamic_loss(a_map(), superpixels=A_MASK[0].long()),
        ValueError,
        "[4, 5]",
        "[B, H, W]",
    ),
    "continuity": (call(continuity="l2"), ValueError, "'l2'", "l1, huber"),
    "diagonals": (call(diagonals=1), TypeError, "diagonals is 1", "True or False"),
    "label floor 0": (call(label_floor=0), ValueError, "label_floor is 0", ">= 1"),
    "label floor 2.5": (call(label_floor=2.5), TypeError, "label_floor is 2.5", "integer"),
    "label floor True": (call(label_floor=True), TypeError, "label_floor is True", "integer"),
    "scribbles int32": (call(scribbles=LABELS.int()), TypeError, "scribbles is torch.int32", "int64 tensor [B, H, W]"),
    "scribbles array": (call(scribbles=LABELS.numpy()), TypeError, "ndarray", "-1 where nothing was drawn"),
    "scribbles without batch": (call(scribbles=LABELS[0]), ValueError, "scribbles has shape [4, 5]", "[B, H, W]"),
    "scribbles elsewhere": (call(scribbles=LABELS.to("meta")), ValueError, "meta", "move"),
    "scribbles too low": (call(scribbles=LABELS - 2), ValueError, "scribbles has labels from -2 to -2", "0 to 2"),
    "scribbles too high": (call(scribbles=LABELS + 3), ValueError, "scribbles has labels from 3 to 3", "-1 for none"),
    "guide transposed": (call(guide=LABELS.mT), ValueError, "guide has shape [2, 5, 4]", "[B, H, W]"),
    "guide too high": (call(guide=LABELS + 255), ValueError, "guide has labels from 255 to 255", "0 to 2"),
    "guide weight text": (call(guide=LABELS, guide_weight="1"), TypeError, "guide_weight is '1'", "number >= 0"),
    "guide weight -1": (call(guide=LABELS, guide_weight=-1), ValueError, "guide_weight is -1", ">= 0"),
    "guide weight nan": (call(guide=LABELS, guide_weight=math.nan), ValueError, "guide_weight is nan", "finite"),
    "guide weight int64": (
        call(guide=LABELS, guide_weight=torch.ones(2).long()),
        TypeError,
        "guide_weight is torch.int64",
        "floating tensor",
    ),
    "guide weight shape": (
        call(guide=LABELS, guide_weight=torch.ones(3)),
        ValueError,
        "guide_weight has shape [3]",
        "[] or [B]",
    ),
    "guide weight below 0": (
        call(guide=LABELS, guide_weight=torch.tensor([1.0, -2.0])),
        ValueError,
        "guide_weight is [1.0, -2.0]",
        ">= 0",
    ),
    "guide weight elsewhere": (
        call(guide=LABELS, guide_weight=torch.ones(2, device="meta")),
        ValueError,
        "guide_weight is on meta",
        "move",
    ),
    "loss and grad": (lambda: dynamic_loss_and_grad(a_map(), mu=0), ValueError, "mu is 0.0", "> 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_say_what_was_passed_and_what_is_wanted(mistake: str) -> None:
    call, kind, got, wanted = MISTAKES[mistake]
    with pytest.raises(kind, match=re.escape(got)) as raised:
        call()
    text = str(raised.value)
    assert wanted in text
    assert "\n" not in text
