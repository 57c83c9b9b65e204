"""``_native.pyi`` and ``_native_cuda.pyi`` say what the compiled modules have, no more and no less."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cuda_on_host
import pytest

import dynamicseg
from dynamicseg import _native


class Stub(NamedTuple):
    typed_dicts: dict[str, ast.ClassDef]
    compiled_classes: dict[str, ast.ClassDef]
    functions: dict[str, ast.FunctionDef]
    """Methods among them, as ``Class.method``."""


@functools.cache
def stub_of(name: str) -> Stub:
    body = ast.parse((Path(dynamicseg.__file__).parent / f"{name}.pyi").read_text(encoding="utf-8")).body
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    typed_dicts = {name: node for name, node in classes.items() if is_typed_dict(node)}
    compiled = {name: node for name, node in classes.items() if name not in typed_dicts}
    methods = {
        f"{name}.{method.name}": method
        for name, node in compiled.items()
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name != "__buffer__"  # a slot: it has no signature
    }
    return Stub(
        typed_dicts, compiled, {node.name: node for node in body if isinstance(node, ast.FunctionDef)} | methods
    )


def is_typed_dict(node: ast.ClassDef) -> bool:
    return [base.id for base in node.bases if isinstance(base, ast.Name)] == ["TypedDict"]


STUBS = ["_native", "_native_cuda"]
FUNCTIONS = [(stub, name) for stub in STUBS for name in stub_of(stub).functions]


def module_of(name: str) -> ModuleType:
    """The compiled module. That of CUDA is made of the same source where there is no nvcc."""
    return _native if name == "_native" else cuda_on_host.module()


def compiled_signature(stub: str, name: str) -> ast.FunctionDef:
    """What pybind11 writes into the first line of the docstring."""
    found: Any = module_of(stub)
    for part in name.split("."):
        found = getattr(found, part)
    (signature,) = ast.parse(f"def {found.__doc__.splitlines()[0]}: ...").body
    assert isinstance(signature, ast.FunctionDef)
    return signature


def parameter_names(function: ast.FunctionDef) -> dict[str, list[str]]:
    arguments = function.args
    return {
        "positional": [a.arg for a in (*arguments.posonlyargs, *arguments.args) if a.arg != "self"],
        "keyword only": [a.arg for a in arguments.kwonlyargs],
        "with a default": [a.arg for a, b in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if b],
    }


@pytest.mark.parametrize("stub", STUBS)
def test_names(stub: str) -> None:
    public = {name for name in dir(module_of(stub)) if not name.startswith("_")}
    top_level = {name for name in stub_of(stub).functions if "." not in name}
    assert public == stub_of(stub).compiled_classes.keys() | top_level


@pytest.mark.parametrize(("stub", "name"), FUNCTIONS)
def test_parameters(stub: str, name: str) -> None:
    assert parameter_names(stub_of(stub).functions[name]) == parameter_names(compiled_signature(stub, name))


@pytest.mark.parametrize(("stub", "name"), [(stub, name) for stub, name in FUNCTIONS if "." not in name])
def test_what_returns_nothing(stub: str, name: str) -> None:
    def returns_nothing(function: ast.FunctionDef) -> bool:
        return isinstance(function.returns, ast.Constant) and function.returns.value is None

    assert returns_nothing(stub_of(stub).functions[name]) == returns_nothing(compiled_signature(stub, name))


def test_result_memory_is_a_writable_buffer_of_bytes() -> None:
    assert "ResultMemory" in stub_of("_native").compiled_classes
    view = memoryview(_native.ResultMemory(4096))
    assert (view.nbytes, view.format, view.readonly) == (4096, "B", False)
    view[4095] = 7
    assert view[4095] == 7


@pytest.mark.parametrize("stub", STUBS)
def test_build_info(stub: str) -> None:
    wanted = {
        field.target.id: field.annotation.id
        for field in stub_of(stub).typed_dicts["BuildInfo"].body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(field.annotation, ast.Name)
    }
    info = module_of(stub).build_info()
    assert {name: type(value).__name__ for name, value in info.items()} == wanted
    assert all(value != "" for value in info.values())
