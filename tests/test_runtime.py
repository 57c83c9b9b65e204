"""Where an op runs: backend, instruction set, threads, and what environment variables say of them."""

from __future__ import annotations

import contextlib
import ctypes
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import dynamicseg
from dynamicseg import _native
from dynamicseg.ops import _cuda, _runtime, dynamic_loss, dynamic_loss_and_grad

RunPython = Callable[..., subprocess.CompletedProcess[str]]

CPU = torch.device("cpu")
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, or forks")


@pytest.fixture
def native_threads() -> Iterator[None]:
    """Forgets, after a test, whose threads it has lent to the native core."""
    yield
    _native.set_threads(1, 0)


@pytest.fixture
def problem_forgotten() -> Iterator[None]:
    """What is known of the CUDA kernels is found again in this test, and after it."""
    for known in (_cuda.load_error, _cuda._problem_of_device):
        known.cache_clear()
    yield
    for known in (_cuda.load_error, _cuda._problem_of_device):
        getattr(known, "cache_clear", lambda: None)()


class TestBackend:
    def test_native_kernels_on_the_cpu(self) -> None:
        assert _runtime.backend_for(CPU) == "cpu"
        assert _runtime.why(CPU) == f"native kernels, {_native.instruction_set()}"

    def test_plain_pytorch_elsewhere_with_the_reason(
        self, problem_forgotten: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cuda = torch.device("cuda")
        monkeypatch.setattr(_native, "build_info", lambda: {"cuda": False, "cuda_reason": "no nvcc was there"})
        assert _runtime.backend_for(cuda) == "reference"
        assert _runtime.why(cuda) == "plain PyTorch, because no nvcc was there"
        assert _runtime.backend_for(torch.device("meta")) == "reference"

    def test_a_cuda_module_that_does_not_load_is_the_reason(
        self, problem_forgotten: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_native, "build_info", lambda: {"cuda": True, "cuda_reason": ""})
        monkeypatch.setitem(sys.modules, "dynamicseg._native_cuda", None)
        monkeypatch.delattr(dynamicseg, "_native_cuda", raising=False)
        assert _runtime.backend_for(torch.device("cuda")) == "reference"
        assert re.search(r"because the CUDA module cannot be loaded \(.+\)$", _runtime.why(torch.device("cuda")))

    def test_no_gpu_is_the_reason(self, problem_forgotten: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_cuda, "load_error", lambda: "")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert _runtime.why(torch.device("cuda")) == "plain PyTorch, because PyTorch finds no CUDA GPU"

    def test_a_gpu_that_the_kernels_cannot_run_on_is_the_reason(
        self, problem_forgotten: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = types.SimpleNamespace(
            problem_of_current_device=lambda: "no kernel image is available",
            build_info=lambda: {"architectures": "90-real"},
        )
        monkeypatch.setattr(_cuda, "load_error", lambda: "")
        monkeypatch.setitem(sys.modules, "dynamicseg._native_cuda", module)
        monkeypatch.setattr(dynamicseg, "_native_cuda", module, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
        for device in ("cuda", "cuda:0"):
            assert _runtime.backend_for(torch.device(device)) == "reference"
            assert _runtime.why(torch.device(device)).endswith(
                "because the kernels, compiled for 90-real, cannot run on Some GPU: no kernel image is available"
            )
        module.problem_of_current_device = lambda: ""
        _cuda._problem_of_device.cache_clear()
        assert _runtime.backend_for(torch.device("cuda:0")) == "cuda"
        assert _runtime.why(torch.device("cuda:0")) == "native kernels, CUDA"

    def test_the_cuda_module_is_left_alone_until_a_gpu_is_used(self, run_python: RunPython) -> None:
        done = run_python("""
import sys
import torch
import dynamicseg

dynamicseg.DynamicLoss()(torch.randn(1, 3, 4, 5))
assert "dynamicseg._native_cuda" not in sys.modules
""")
        assert done.returncode == 0, done.stderr

    def test_reference_by_environment(self, run_python: RunPython) -> None:
        done = run_python(
            """
import torch
from dynamicseg import _native, reference
from dynamicseg.ops import _cuda, _runtime, dynamic_loss, dynamic_loss_and_grad

del _native.DynamicLossParams  # without it no kernel can be called
x = torch.randn(2, 5, 6, 7).requires_grad_()
expected = reference.dynamic_loss(x)
for part, true in zip(dynamic_loss(x), expected):
    assert torch.equal(part, true)
output, grad_x = dynamic_loss_and_grad(x)
assert not any(part.requires_grad for part in (*output, grad_x))
torch.testing.assert_close(grad_x, torch.autograd.grad(expected.loss.mean(), x)[0])
assert x.requires_grad and x.grad is None
print(_runtime.why(torch.device("cpu")))
""",
            DYNAMICSEG_BACKEND="reference",
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "plain PyTorch, because DYNAMICSEG_BACKEND=reference"

    @pytest.mark.parametrize(
        ("beside", "words"),
        [
            ("pyproject.toml", "this is the source folder of dynamicseg, .* run Python from another folder"),
            ("nothing.txt", r"the compiled module of dynamicseg cannot be loaded \(.*\): install .* `pip install \.`"),
        ],
    )
    def test_a_missing_native_module_says_what_to_do(
        self, run_python: RunPython, tmp_path: Path, beside: str, words: str
    ) -> None:
        sources = Path(dynamicseg.__file__).parent
        shutil.copytree(sources, tmp_path / "dynamicseg", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        (tmp_path / beside).touch()
        # Ahead of every finder, also of the one of an editable install.
        done = run_python(
            "import importlib.machinery, sys; sys.meta_path.insert(0, importlib.machinery.PathFinder); "
            f"sys.path.insert(0, {str(tmp_path)!r}); "
            "sys.modules['dynamicseg._native'] = None; import dynamicseg.ops"
        )
        assert done.returncode == 1
        assert re.search(f"^ImportError: {words}", done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    ("variable", "value", "wanted"),
    [
        ("DYNAMICSEG_BACKEND", "gpu", "choose auto or reference"),
        ("DYNAMICSEG_INSTRUCTION_SET", "sse9", ", ".join(_native.available_instruction_sets())),
    ],
)
def test_wrong_environment_is_one_clear_line(run_python: RunPython, variable: str, value: str, wanted: str) -> None:
    done = run_python("import dynamicseg.ops", **{variable: value})
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: ")
    assert variable in last
    assert value in last
    assert wanted in last


class TestInstructionSet:
    def test_best_first_and_baseline_everywhere(self) -> None:
        order = ["avx512", "avx2", "baseline"]
        available = _native.available_instruction_sets()
        assert available == [name for name in order if name in available]
        assert available[-1] == "baseline"

    def test_the_best_is_the_default(self, run_python: RunPython) -> None:
        code = "from dynamicseg.ops import _runtime; print(_runtime._native.instruction_set())"
        done = run_python(code, DYNAMICSEG_INSTRUCTION_SET=None)
        assert done.stdout.strip() == _native.available_instruction_sets()[0], done.stderr

    def test_another_by_environment(self, run_python: RunPython) -> None:
        code = "from dynamicseg.ops import _runtime; print(_runtime._native.instruction_set())"
        done = run_python(code, DYNAMICSEG_INSTRUCTION_SET="baseline")
        assert done.stdout.strip() == "baseline", done.stderr

    def test_a_wrong_name_changes_nothing(self) -> None:
        before = _native.instruction_set()
        with pytest.raises(ValueError, match=r"'AVX2' is not one .* choose from .*baseline"):
            _native.set_instruction_set("AVX2")
        assert _native.instruction_set() == before


class TestThreads:
    def test_as_many_as_pytorch_uses(self, threads: Callable[[int], None]) -> None:
        for count in (1, 2, 1):
            threads(count)
            dynamic_loss(torch.randn(1, 3, 40, 50))
            assert _native.thread_count() == count

    @linux_only
    def test_of_the_openmp_runtime_that_pytorch_has_loaded(self) -> None:
        address = _runtime.openmp_parallel()
        if address == 0:
            pytest.skip("this PyTorch was built without OpenMP")
        homes = set()
        for line in Path("/proc/self/maps").read_text().splitlines():
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            if begin <= address < end:
                homes.add(Path(line.split(maxsplit=5)[-1]).name)
        assert len(homes) == 1
        assert "omp" in homes.pop()
        dynamic_loss(torch.randn(1, 3, 40, 50))
        assert _native.uses_openmp()

    @pytest.mark.usefixtures("native_threads")
    def test_the_runtime_that_is_lent_is_the_one_that_works(
        self, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        teams: list[int] = []

        def parallel(run: Callable[[int], None], data: int, count: int, _: int) -> None:
            teams.append(count)
            for _ in range(count):
                run(data)

        task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        callback = ctypes.CFUNCTYPE(None, task, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(parallel)
        address = ctypes.cast(callback, ctypes.c_void_p).value
        x = torch.randn(1, 3, 90, 50)
        expected = dynamic_loss_and_grad(x)[1]
        monkeypatch.setattr(_runtime, "openmp_parallel", lambda: address)
        _native.set_threads(1, 0)
        threads(3)
        assert torch.equal(dynamic_loss_and_grad(x)[1], expected)
        assert teams == [3, 3]

    def test_no_more_than_there_are_tiles(self, threads: Callable[[int], None]) -> None:
        threads(200)
        x = torch.randn(1, 3, 9, 5)
        assert dynamic_loss(x).label_counts.item() == 3

    @linux_only
    @pytest.mark.usefixtures("native_threads")
    def test_own_threads_end_with_the_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_runtime, "openmp_parallel", lambda: 0)
        _native.set_threads(1, 0)
        x = torch.randn(1, 3, 90, 50)
        dynamic_loss(x)
        before = len(list(Path("/proc/self/task").iterdir()))
        for _ in range(5):
            dynamic_loss(x)
        assert len(list(Path("/proc/self/task").iterdir())) == before

    # GNU's OpenMP does not work in a forked child with more than one thread, here as in all of PyTorch: the child must
    # ask for one thread, as the workers of torch.utils.data.DataLoader do, or leave OpenMP alone.
    @linux_only
    @pytest.mark.parametrize(
        "in_child",
        ["torch.set_num_threads(1)", "_runtime.openmp_parallel = lambda: 0; _native.set_threads(1, 0)"],
        ids=["one thread", "own threads"],
    )
    def test_a_child_of_a_process_that_has_used_it(self, run_python: RunPython, in_child: str) -> None:
        done = run_python(f"""
import os, signal
import torch
from dynamicseg import _native
from dynamicseg.ops import _cuda, _runtime, dynamic_loss_and_grad

torch.set_num_threads(2)
maps = [torch.randn(1, 16, 64, 64), torch.randn(1, 16, 280, 290)]

def gradients():
    return [dynamic_loss_and_grad(x)[1].numpy().tobytes() for x in maps]

expected = gradients()
child = os.fork()
if child == 0:
    signal.alarm(60)
    {in_child}
    os._exit(0 if gradients() == expected else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert gradients() == expected
""")
        assert done.returncode == 0, done.stderr


class TestKeptMemory:
    @linux_only
    def test_freed_memory_is_kept_inside_and_given_back_at_the_end(self, run_python: RunPython) -> None:
        done = run_python("""
from pathlib import Path
import torch
from dynamicseg.ops._runtime import freed_memory_kept

def resident():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024

def use(megabytes):
    torch.ones(megabytes << 20, dtype=torch.uint8)

use(1)
start = resident()
try:
    with freed_memory_kept(), freed_memory_kept():
        use(300)
        inside = resident()
        raise KeyError
except KeyError:
    pass
after = resident()
use(300)
print(inside - start, after - start, resident() - start)
""")
        assert done.returncode == 0, done.stderr
        inside, after, later = map(int, done.stdout.split())
        assert inside >= 290
        assert after <= 60
        assert later <= 60


def test_a_launch_is_cooperative_where_it_is_wanted() -> None:
    assert _cuda._cooperative.get() is _cuda.COOPERATIVE_BY_DEFAULT
    with _cuda.cooperative_launches(True):
        assert _cuda._cooperative.get() is True
        with _cuda.cooperative_launches(False):
            assert _cuda._cooperative.get() is False
        assert _cuda._cooperative.get() is True
    assert _cuda._cooperative.get() is _cuda.COOPERATIVE_BY_DEFAULT
