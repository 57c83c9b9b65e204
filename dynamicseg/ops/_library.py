"""Operators of ``torch.library``, registered so that the first call of one imports nothing.

``torch.library.custom_op`` does the same, but imports the whole compiler of ``torch.compile`` in the first call of an
operator, to keep it away from the kernels: one to two seconds in every process, of which most compile nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

Kernel = Callable[..., Any]


def operator(
    name: str, schema: str, *, fake: Kernel, backward: Kernel | None = None, setup_context: Kernel | None = None
) -> Callable[[Kernel], Any]:
    """Registers a function on CPU and GPU tensors as ``dynamicseg::name``, which takes its place.

    Args:
        name: of the operator.
        schema: its arguments and results; none of them is written to, and no result is an argument.
        fake: results without data for arguments without data.
        backward: see ``torch.library.register_autograd``, as for ``setup_context``; None: there is no derivative, and
            to ask for one is an error.
        setup_context: what the backward pass needs.
    """
    full_name = f"dynamicseg::{name}"

    def no_derivative(*_: Any) -> Any:
        raise RuntimeError(f"{full_name} has no derivative: call it on tensors that need none")

    def register(kernel: Kernel) -> Any:
        torch.library.define(full_name, schema, tags=torch.Tag.pt2_compliant_tag)
        torch.library.impl(full_name, ("cpu", "cuda"), left_alone_by_the_compiler(kernel))
        torch.library.register_fake(full_name, fake)
        torch.library.register_autograd(full_name, backward or no_derivative, setup_context=setup_context)
        return getattr(torch.ops.dynamicseg, name).default

    return register


def left_alone_by_the_compiler(kernel: Kernel) -> Kernel:
    """As ``torch.compiler.disable``, but for importing the compiler, which every start would wait for.

    The frames of ``kernel`` are not compiled, even where a graph breaks around its operator.
    """
    disabled: Kernel | None = None

    def run(*arguments: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            if "torch._dynamo" not in sys.modules:  # the compiler, which nobody has used yet
                return kernel(*arguments)
            disabled = torch.compiler.disable(kernel)
        return disabled(*arguments)

    return run
