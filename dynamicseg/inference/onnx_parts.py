"""What is read of an ONNX file: its operators and its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynamicseg._files import Refusal


@dataclass(frozen=True)
class Node:
    """An operator, the names of what goes in and comes out, and its attributes: whole numbers, or text."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Sequence[int] | str]

    def numbers(self, name: str, default: Sequence[int]) -> list[int]:
        """Of an attribute."""
        found = self.attributes.get(name, default)
        if isinstance(found, str):
            raise unknown(self)
        return list(found)

    def number(self, name: str, default: int) -> int:
        """Of an attribute that has just one."""
        found = self.numbers(name, (default,))
        if len(found) != 1:
            raise unknown(self)
        return found[0]


@dataclass(frozen=True)
class Constant:
    """A tensor of the file: its shape, and its numbers if they are few."""

    shape: tuple[int, ...]
    values: tuple[float, ...] | None


def unknown(node: Node) -> Refusal:
    """What is said of an operator that no exported model has, or not in this way."""
    return Refusal(f"uses {node.operator[:60]} as no exported model does: export it again")
