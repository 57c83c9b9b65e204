"""An engine file and what stands beside it: is it what it says, and can it run here? Asked before it is opened.

An engine is code for one kind of GPU and one version of TensorRT, which runs it without looking. All that is known of
it stands in ``<file>.json`` beside it: the description of the model, and under ``engine`` what it was built for.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamicseg._files import Refusal, opened
from dynamicseg.inference.contract import MAX_DESCRIPTION_BYTES, ModelContract, read_contract
from dynamicseg.inference.tensorrt_library import KINDS

MAX_BYTES = 4 << 30

VERSION_COMPATIBLE, HARDWARE_COMPATIBLE = "version_compatible", "hardware_compatible"
SAME_COMPUTE_CAPABILITY = "same_compute_capability"


@dataclass(frozen=True, eq=False)
class EngineFile:
    """An engine whose bytes are those that its sidecar was written for.

    Attributes:
        content: the plan.
        contract: of the model.
        kind: a key of ``KINDS``.
        version: of TensorRT or TensorRT-RTX that built it.
        device: name of the GPU that it was built on; None: built without one.
        compute_capabilities: of the GPUs that it was built for, as ``"8.6"``.
        flags: that it was built with, such as ``VERSION_COMPATIBLE``.
    """

    content: bytes
    contract: ModelContract
    kind: str
    version: str
    device: str | None
    compute_capabilities: tuple[str, ...]
    flags: frozenset[str]


def sidecar_path(path: Path) -> Path:
    """``model.engine.json`` of ``model.engine``."""
    return path.with_name(path.name + ".json")


def read_engine(path: Path) -> EngineFile:
    """Reads an engine and its sidecar; nothing of the engine is looked at but whether it is the right one.

    Raises:
        ValueError: one of them is damaged, missing or foreign, or they do not belong together.
        OSError: one of them cannot be read.
    """
    beside = sidecar_path(path)
    if os.path.isfile(path) and not beside.exists():
        raise ValueError(
            f"{path}: there is no {beside.name} beside it, which says what it was built for: copy both files, or build "
            "it again with dynamicseg export"
        )
    with opened(beside) as file:
        text = file.read(MAX_DESCRIPTION_BYTES + 1)
        contract = read_contract(text)
        stamp = _stamp(contract.description)
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise Refusal(f"has more than {MAX_BYTES} bytes: no exported engine is so large")
        content = file.read()
        if hashlib.sha256(content).hexdigest() != stamp["sha256"]:
            raise Refusal(
                f"is not the engine that {beside.name} was written for, or it is damaged: copy both files again, or "
                "build it again with dynamicseg export"
            )
    return EngineFile(
        content=content,
        contract=contract,
        kind=stamp["kind"],
        version=stamp["version"],
        device=stamp["device"],
        compute_capabilities=tuple(stamp["compute_capabilities"]),
        flags=frozenset(stamp["flags"]),
    )


def _stamp(description: Mapping[str, Any]) -> dict[str, Any]:
    stamp = description.get("engine")
    if not isinstance(stamp, dict):
        raise Refusal("says nothing of an engine: it was not written by dynamicseg export")
    found = {"device": None, "compute_capabilities": [], "flags": [], **stamp}
    for name in ("kind", "version", "sha256"):
        if not isinstance(found.get(name), str):
            raise Refusal(f"is damaged: its engine has no {name}; build it again with dynamicseg export")
    if found["kind"] not in KINDS:
        raise Refusal(f"is for an engine of kind {found['kind'][:40]!r}; known are {', '.join(KINDS)}")
    for name in ("compute_capabilities", "flags"):
        if not isinstance(found[name], list) or not all(isinstance(one, str) for one in found[name]):
            raise Refusal(
                f"is damaged: {name} of its engine is no list of names; build it again with dynamicseg export"
            )
    if found["device"] is not None and not isinstance(found["device"], str):
        raise Refusal("is damaged: the device of its engine has no name; build it again with dynamicseg export")
    return found


def check_version(path: Path, engine: EngineFile, version: str) -> None:
    """Refuses an engine that this version of TensorRT could not read; ValueError names both sides and the way out."""
    built, here = _numbers(engine.version), _numbers(version)
    if VERSION_COMPATIBLE in engine.flags:
        fits = built[:1] == here[:1] and built <= here
    else:
        fits = built == here
    if not fits:
        name = KINDS[engine.kind]
        raise ValueError(f"{path}: was built by {name} {engine.version}, here is {version}: {rebuild(path, engine)}")


def check_device(path: Path, engine: EngineFile, name: str, compute_capability: str) -> None:
    """Refuses an engine for another GPU; ValueError names both sides and the way out."""
    # TensorRT measures on one GPU, and what it found is for GPUs of that name, unless it was told to leave more open.
    any_name = engine.kind == "tensorrt-rtx" or engine.flags & {HARDWARE_COMPATIBLE, SAME_COMPUTE_CAPABILITY}
    known = compute_capability in engine.compute_capabilities
    newer = HARDWARE_COMPATIBLE in engine.flags and _at_least(compute_capability, engine.compute_capabilities)
    if (known or newer) and (any_name or engine.device == name):
        return
    capabilities = ", ".join(engine.compute_capabilities) or "unknown"
    built_for = f"{engine.device or 'GPUs'} of compute capability {capabilities}"
    raise ValueError(
        f"{path}: was built for {built_for}, here is {name} of compute capability {compute_capability}: "
        f"{rebuild(path, engine)}"
    )


def rebuild(path: Path, engine: EngineFile) -> str:
    """The command that makes an engine for the machine that it is run on."""
    return f"build it here with dynamicseg export MODEL.safetensors --to {engine.kind} -o {path.name}"


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(int(part) if part.isdecimal() else -1 for part in parts)


def _at_least(compute_capability: str, built_for: tuple[str, ...]) -> bool:
    return bool(built_for) and _numbers(compute_capability) >= min(_numbers(one) for one in built_for)
