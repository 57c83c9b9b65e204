"""``_native.pyi`` says what the compiled module has, no more and no less."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import dynamicseg
from dynamicseg import _native

STUB = ast.parse((Path(dynamicseg.__file__).parent / "_native.pyi").read_text(encoding="utf-8"))


def is_typed_dict(node: ast.ClassDef) -> bool:
    return [base.id for base in node.bases if isinstance(base, ast.Name)] == ["TypedDict"]


CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
TYPED_DICTS = {name: node for name, node in CLASSES.items() if is_typed_dict(node)}
COMPILED_CLASSES = {name: node for name, node in CLASSES.items() if name not in TYPED_DICTS}
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
METHODS = {
    f"{name}.{method.name}": method
    for name, node in COMPILED_CLASSES.items()
    for method in node.body
    if isinstance(method, ast.FunctionDef) and method.name != "__buffer__"  # a slot: it has no signature
}


def compiled_signature(name: str) -> ast.FunctionDef:
    """What pybind11 writes into the first line of the docstring."""
    found: Any = _native
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
    }


def test_names() -> None:
    public = {name for name in dir(_native) if not name.startswith("_")}
    assert public == COMPILED_CLASSES.keys() | FUNCTIONS.keys()


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_parameters(name: str) -> None:
    stub = (FUNCTIONS | METHODS)[name]
    assert parameter_names(stub) == parameter_names(compiled_signature(name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_returns_nothing(name: str) -> None:
    def returns_nothing(function: ast.FunctionDef) -> bool:
        return isinstance(function.returns, ast.Constant) and function.returns.value is None

    assert returns_nothing(FUNCTIONS[name]) == returns_nothing(compiled_signature(name))


def test_result_memory_is_a_writable_buffer_of_bytes() -> None:
    assert "ResultMemory" in COMPILED_CLASSES
    view = memoryview(_native.ResultMemory(4096))
    assert (view.nbytes, view.format, view.readonly) == (4096, "B", False)
    view[4095] = 7
    assert view[4095] == 7


def test_build_info() -> None:
    wanted = {
        field.target.id: field.annotation.id
        for field in TYPED_DICTS["BuildInfo"].body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(field.annotation, ast.Name)
    }
    info = _native.build_info()
    assert {name: type(value).__name__ for name, value in info.items()} == wanted
    assert all(value != "" for value in info.values())
