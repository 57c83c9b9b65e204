"""What is imported, and when: nobody waits at the start for what his command does not use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dynamic_loss_cases import op_arguments

from dynamicseg.ops import _cuda

RunPython = Callable[..., subprocess.CompletedProcess[str]]

LOADED = "print(sorted({name for name in WATCHED if name in sys.modules}))"


def loaded(run_python: RunPython, code: str, *watched: str) -> str:
    """Which of the modules are imported after the code has run."""
    done = run_python(f"import sys\nWATCHED = {watched!r}\n{code}\n{LOADED}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_public_names_load_torch_and_little_else(run_python: RunPython) -> None:
    code = "import dynamicseg\nfor name in (*dynamicseg.__all__, 'ops', 'reference'): getattr(dynamicseg, name)"
    watched = ("torch._dynamo", "sympy", "scipy", "skimage", "matplotlib", "PIL", "tifffile", "onnx", "onnxruntime")
    assert loaded(run_python, code, "torch", *watched) == "['torch']"


def test_the_loss_runs_without_the_compiler(run_python: RunPython) -> None:
    code = """
import dynamicseg, torch
dynamicseg.DynamicLoss()(torch.randn(1, 5, 6, 7, requires_grad=True)).loss.backward()
dynamicseg.ops.relu_batch_norm(torch.randn(2, 5, 6, 7), torch.ones(5), torch.zeros(5))
"""
    assert loaded(run_python, code, "torch._dynamo", "scipy", "skimage") == "[]"


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_an_image_is_segmented_without_the_compiler(run_python: RunPython, preset: str) -> None:
    code = f"""
import dynamicseg, numpy
image = numpy.random.default_rng(0).integers(0, 256, (20, 30, 3), numpy.uint8)
dynamicseg.segment(image, preset={preset!r}, max_steps=2)
"""
    assert loaded(run_python, code, "torch._dynamo", "matplotlib", "scipy.optimize", "scipy.stats") == "[]"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["segment", "--help"], ["bench", "--help"], ["bench", "loss", "--help"], ["segmnt"]]
)
def test_help_and_wrong_calls_load_nothing_heavy(run_python: RunPython, arguments: list[str]) -> None:
    code = f"""
from dynamicseg.cli import main
try: main({arguments!r})
except SystemExit: pass
"""
    assert loaded(run_python, code, "torch", "numpy", "scipy", "skimage", "PIL", "dynamicseg._native") == "[]"


def test_completion_answers_without_torch(tmp_path: Path) -> None:
    code = """
import sys
from dynamicseg.cli import main
try: main([])
finally: print("torch" in sys.modules, file=sys.stderr)
"""
    for words, wanted in (("dynamicseg segm", "segment"), ("dynamicseg bench qual", "quality")):
        environment = {
            "_DYNAMICSEG_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        }
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=60,
        )
        assert (done.stdout.split(), done.stderr.split()[-1]) == ([wanted], "False")


class TestCompiler:
    """What stands in for two functions of PyTorch that import its compiler does the same."""

    def test_a_constant_is_marked_as_pytorch_marks_it(self) -> None:
        marked = torch.compiler.assume_constant_result(lambda: 0)
        assert vars(marked).items() <= vars(_cuda.problem).items()

    def test_the_reason_for_a_backend_is_no_break_of_a_graph(self) -> None:
        @torch.compile(fullgraph=True, backend="eager")
        def add_length(x: torch.Tensor) -> torch.Tensor:
            return x + len(_cuda.problem(None))

        assert add_length(torch.zeros(1)).item() == len(_cuda.problem(None))

    def test_kernels_are_not_compiled_where_a_graph_breaks(self) -> None:
        x = torch.randn(1, 5, 6, 7)
        arguments = op_arguments(x)
        traced: list[str] = []

        def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
            traced.extend(str(node.target) for node in graph.graph.nodes)
            return graph.forward

        @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]  # what it calls may be compiled, frame by frame
        def losses(x: torch.Tensor) -> torch.Tensor:
            loss: torch.Tensor = torch.ops.dynamicseg.dynamic_loss_and_grad(x, *arguments)[0]
            return loss

        compiled = torch.compile(lambda x: losses(x) + 1, backend=backend)
        for _ in range(2):
            assert torch.equal(compiled(x), losses(x) + 1)
        assert not [name for name in traced if "empty" in name or "full_like" in name]


def test_an_operator_without_a_derivative_says_so() -> None:
    x = torch.randn(1, 5, 6, 7, requires_grad=True)
    loss = torch.ops.dynamicseg.dynamic_loss_and_grad(x, *op_arguments(x))[0]
    with pytest.raises(RuntimeError, match="dynamicseg::dynamic_loss_and_grad has no derivative"):
        loss.backward()
