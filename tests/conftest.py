"""What all tests share: seeds, devices, tolerances, photos and data sets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cuda_on_host
import numpy as np
import pytest
import skimage
import torch
from gradients import Tolerance
from numpy.typing import NDArray

# Not optional and never skipped: without the compiled module no test of this package means anything.
import dynamicseg.ops  # noqa: F401
from dynamicseg import _native
from dynamicseg.ops import _runtime

DATA_VARIABLE = "DYNAMICSEG_DATA"


@pytest.fixture(autouse=True, scope="session")
def _interrupts() -> None:
    # A shell has what it starts in the background ignore Ctrl-C, and the commands that are tested would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that an op runs on."""
    return torch.device(request.param)


@pytest.fixture(
    params=[
        *_native.available_instruction_sets(),
        "cuda-on-host",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ]
)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device of each set of kernels: one for each instruction set of this processor, and CUDA.

    The sources of the CUDA kernels also run on the host, on tensors that are on the CPU; see tests/cuda_on_host.
    """
    before = _native.instruction_set()
    if request.param == "cuda":
        cuda = torch.device("cuda")
        if _runtime.backend_for(cuda) == "reference":
            pytest.skip(_runtime.why(cuda))
        yield cuda
    elif request.param == "cuda-on-host":
        with cuda_on_host.kernels(monkeypatch):
            yield torch.device("cpu")
    else:
        _native.set_instruction_set(request.param)
        yield torch.device("cpu")
    _native.set_instruction_set(before)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that go over all targets and types leave out some.

    The CPU has no kernels for float16. On the host, where a large map takes seconds, one type of it is enough.
    """

    def is_left_out(item: pytest.Item) -> bool:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if params.get("target") == "cuda-on-host":
            return "larger_than_the_caches" in item.name and params["dtype"] != torch.bfloat16
        return params.get("dtype") == torch.float16 and params.get("target") in _native.available_instruction_sets()

    left_out = [item for item in items if is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not is_left_out(item)]


@pytest.fixture(params=_native.available_instruction_sets())
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set of this processor, for kernels that are on the CPU alone."""
    before = _native.instruction_set()
    _native.set_instruction_set(request.param)
    yield request.param
    _native.set_instruction_set(before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the op passes to the native core, one dictionary for each call."""
    recorded: list[dict[str, Any]] = []
    original = _native.DynamicLossParams

    def record(**params: Any) -> _native.DynamicLossParams:
        recorded.append(params)
        return original(**params)

    monkeypatch.setattr(_native, "DynamicLossParams", record)
    return recorded


@pytest.fixture(scope="session")
def tolerances() -> dict[torch.dtype, Tolerance]:
    """How far a kernel may be from the reference in float64, by the dtype of the map.

    Statistics of a bfloat16 or float16 map are float32; its gradient is rounded to 8 bits, in float16 because those of
    a large image are so small that it has no more for them.
    """
    return {
        torch.float64: Tolerance(statistic=1e-12, gradient=1e-12),
        torch.float32: Tolerance(statistic=2e-6, gradient=1e-5),
        torch.bfloat16: Tolerance(statistic=2e-6, gradient=2**-8),
        torch.float16: Tolerance(statistic=2e-6, gradient=2**-8),
    }


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads of PyTorch, and with it of the kernels, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_python(code, NAME="value")``: runs it in a new process, with environment variables changed; None: unset."""

    def run(code: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        # -P and -S as in this process: they decide which dynamicseg is found.
        flags = (["-P"] if sys.version_info >= (3, 11) else []) + (["-S"] if sys.flags.no_site else [])
        environment = {**os.environ, **changes}
        return subprocess.run(
            [sys.executable, *flags, "-c", code],
            env={name: value for name, value in environment.items() if value is not None},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture(scope="session")
def photo() -> Callable[[str], NDArray[np.uint8]]:
    """``photo("chelsea")``: a photo ``[H, W, 3]`` uint8 that scikit-image ships; also coffee and astronaut."""

    def read(name: str) -> NDArray[np.uint8]:
        shipped = Path(skimage.__file__).parent / "data" / f"{name}.png"
        if not shipped.is_file():
            pytest.fail(f"{name} is not among the photos that scikit-image ships: it would be downloaded")
        image: NDArray[np.uint8] = getattr(skimage.data, name)()
        return image

    return read


@pytest.fixture(scope="session")
def dataset() -> Callable[[str], Path]:
    """``dataset("bsds500")``: folder of a data set; for tests marked ``dataset``."""

    def folder(name: str) -> Path:
        root = os.environ.get(DATA_VARIABLE)
        if not root:
            pytest.skip(f"{DATA_VARIABLE} is not set: it names the folder that holds {name}")
        found = Path(root) / name
        if not found.is_dir():
            pytest.fail(f"{DATA_VARIABLE}={root} holds no folder {name}")
        return found

    return folder
