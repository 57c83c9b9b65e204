"""What an exported file says of itself: in ONNX under one key of its metadata, of an engine in the JSON beside it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnx

from dynamicseg._files import Refusal, one_line
from dynamicseg.export.formats import INPUT, OUTPUT
from dynamicseg.inference.contract import METADATA_KEY
from dynamicseg.inference.onnx_file import read_onnx
from dynamicseg.model_description import ModelDescription, parse_description

_LIBRARIES = ("dynamicseg", "torch", "numpy", "onnx", "onnxruntime", "onnxscript", "onnxslim")


def versions() -> dict[str, str]:
    """Of everything that takes part in an export."""
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def described(model: ModelDescription, **parts: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a model with what is known of its export, and of its engine, ready for JSON."""
    return {**model.model_dump(mode="json"), **parts}


def write_into(graph: onnx.ModelProto, metadata: Mapping[str, Any]) -> None:
    """Puts the description into an ONNX model, in place of any other."""
    text = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
    onnx.helper.set_model_props(graph, {METADATA_KEY: text})


def graph_digest(graph: onnx.ModelProto) -> str:
    """SHA-256 of everything that is computed: the graph, its weights, and the versions of its operators."""
    return hashlib.sha256(graph_bytes(graph)).hexdigest()


def graph_bytes(graph: onnx.ModelProto) -> bytes:
    """An ONNX file without metadata, always the same of the same graph."""
    bare = onnx.ModelProto()
    bare.CopyFrom(graph)
    del bare.metadata_props[:]
    content: bytes = bare.SerializeToString(deterministic=True)
    return content


def read_exported(path: Path) -> tuple[onnx.ModelProto, ModelDescription, dict[str, Any]]:
    """Reads an ONNX file that ``export`` wrote, to build an engine from it; any other is refused.

    What prediction refuses is refused here, so that nothing reaches a parser that export never writes; and the file
    says which graph was written, so that one that was changed or damaged by mistake does not.

    Returns:
        The graph, the description of its model, and what is known of its export.

    Raises:
        ValueError: it is no such file, damaged, or refers to other files; in one line.
        OSError: it cannot be read.
    """
    content = read_onnx(path).content
    try:
        graph = onnx.ModelProto.FromString(content)
    except Exception:  # of protobuf, whose classes have no types
        raise ValueError(one_line(path, "is no ONNX file, or it is damaged: copy it again")) from None
    try:
        description, exported = _checked(graph)
    except Refusal as refusal:
        raise ValueError(one_line(path, str(refusal))) from None
    return graph, description, exported


def _checked(graph: onnx.ModelProto) -> tuple[ModelDescription, dict[str, Any]]:
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    if METADATA_KEY not in properties:
        raise Refusal("is no ONNX file that dynamicseg export has written: its metadata lack a description")
    try:
        metadata = json.loads(properties[METADATA_KEY])
        exported = metadata.pop("export")
        digest, precision = exported["graph_sha256"], exported["precision"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refusal("is no ONNX file that dynamicseg export has written: its description is damaged") from None
    try:
        description = parse_description(json.dumps(metadata))
    except ValueError as error:
        raise Refusal(str(error)) from None
    names = [value.name for value in (*graph.graph.input, *graph.graph.output)]
    if names != [INPUT, OUTPUT] or digest != graph_digest(graph) or not isinstance(precision, str):
        raise Refusal("is damaged, or was changed after dynamicseg export wrote it: export the model again")
    return description, exported
