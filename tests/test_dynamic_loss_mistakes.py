"""Wrong arguments of ``ops.dynamic_loss``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dynamicseg.ops import dynamic_loss, dynamic_loss_and_grad


def a_map() -> Tensor:
    return torch.zeros(2, 3, 4, 5)


A_MASK = torch.ones(2, 4, 5, dtype=torch.bool)

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
