"""Opening and writing safetensors files: checked before they are read, whole or not at all."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dynamicseg._files import Refusal, one_line, opened, whole_file

_TYPE_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}  # of what is written here

# A header holds a description and a line for each tensor: far less than this, even of the largest network.
_MAX_HEADER_BYTES = 4 << 20


@contextmanager
def opened_tensors(path: Path, wanted: str) -> Iterator[Any]:
    """The file's contents, as ``safetensors.safe_open`` gives them.

    A ``Refusal`` inside the block is raised again as ValueError, one line that starts with the path, as is what is
    wrong with the file. ``wanted`` says what to pass in its place.

    Raises:
        ValueError: it is no safetensors file, or it is damaged.
        OSError: it cannot be read.
    """
    with opened(path) as file:
        first_bytes = file.read(8)
    size = struct.unpack("<Q", first_bytes)[0] if len(first_bytes) == 8 else 0
    # Before anything is allocated for it.
    if not 2 <= size <= min(_MAX_HEADER_BYTES, os.path.getsize(path) - 8):
        raise ValueError(one_line(path, f"is no safetensors file, or it is cut short: {wanted}"))
    try:
        with safe_open(path, framework="pt") as content:
            yield content
    except SafetensorError as error:
        raise ValueError(one_line(path, f"is damaged or cut short ({error}): {wanted}")) from None
    except Refusal as refusal:
        raise ValueError(one_line(path, str(refusal))) from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The same tensors and metadata give the same bytes.

    Raises:
        OSError: the folder cannot be written to.
    """
    content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, metadata=dict(metadata))
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def fitting_tensors(content: Any, wanted: Mapping[str, Tensor], problem: str) -> dict[str, Tensor]:
    """All tensors of a file, once their names, shapes and types are those of ``wanted``.

    Args:
        content: as ``opened_tensors`` gives it.
        wanted: by name; their values are not looked at, so they may be on the device ``meta``.
        problem: what a file is that has others, in words.

    Raises:
        Refusal: it has others.
    """
    names = set(content.keys())
    if names != set(wanted):
        differing = sorted(names ^ set(wanted))
        which = "is missing" if differing[0] in wanted else "has no place in it"
        raise Refusal(f"{problem}: {differing[0]} {which} ({len(differing)} such differences)")
    for name, tensor in wanted.items():
        stored = content.get_slice(name)
        found = f"{stored.get_dtype()} {stored.get_shape()}"
        expected = f"{_TYPE_NAMES[tensor.dtype]} {list(tensor.shape)}"
        if found != expected:
            raise Refusal(f"{problem}: {name} is {found}, not {expected}")
    return {name: content.get_tensor(name) for name in wanted}
