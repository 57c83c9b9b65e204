"""The loss benchmark under pytest-benchmark: ``pytest bench --benchmark-only``.

For a developer who compares two versions of the code (``--benchmark-autosave``, ``--benchmark-compare``). Competitors
run one after the other here; ``dynamicseg bench loss`` alternates them, and is what reports are made with.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from dynamicseg.bench.loss import DTYPES, LAYOUTS, cases, response_maps
from dynamicseg.bench.published import compiled_loss
from dynamicseg.bench.timing import rotation

pytest.importorskip("pytest_benchmark")

SHAPE = (1, 100, 120, 160)
NAMES = ["eager", "compiled", "fused", "fused, one call"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("which", "name"),
    [("forward", name) for name in NAMES[:3]] + [("forward+backward", name) for name in NAMES],
)
def test_loss(benchmark: Any, which: str, name: str, dtype: str, layout: str) -> None:
    nbytes = SHAPE[1] * SHAPE[2] * SHAPE[3] * DTYPES[dtype].itemsize
    maps = response_maps(SHAPE, dtype, layout, rotation(nbytes))
    compiled = compiled_loss(maps) if name == "compiled" else None
    if compiled is not None and compiled.loss is None:
        pytest.skip(f"torch.compile: {compiled.reason}")
    case = cases(maps, compiled.loss if compiled else None)[which, name]
    case(0)
    index = itertools.cycle(range(len(maps)))
    benchmark.extra_info["map_bytes"] = nbytes
    benchmark.pedantic(lambda: case(next(index)), rounds=5, warmup_rounds=1)
