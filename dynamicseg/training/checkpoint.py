"""Where a training is, in a file, so that it can be carried on to the same bits. Read as models are: no pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from dynamicseg._files import Refusal
from dynamicseg._safetensors import fitting_tensors, opened_tensors, write_tensors
from dynamicseg.guidance import LabelFile
from dynamicseg.segmentation import describe_input
from dynamicseg.training.config import TrainingConfig
from dynamicseg.training.loop import Look, Progress, TrainingRecord

_METADATA_KEY = "dynamicseg_checkpoint"
_NETWORK, _MOMENTUM, _BEST, _HISTORY = "network", "momentum", "best", "history"
_ADVICE = "start anew, without --resume, or delete it"


class _State(BaseModel):
    """All but the tensors."""

    model_config = ConfigDict(extra="forbid")

    config: dict[str, Any]
    images: str
    steps: Annotated[int, Field(ge=1)]
    looks: list[Look]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    sha256: str = ""
    """See ``_digest``."""


def fingerprint(sources: Sequence[object]) -> str:
    """Of images and scribbles: the same as long as none has changed, by place, size and time of files."""
    digest = hashlib.sha256()
    for source in sources:
        if isinstance(source, (str, os.PathLike)):
            digest.update(json.dumps(describe_input(source, None)).encode())
        elif isinstance(source, LabelFile):
            digest.update(json.dumps(source.described()).encode())
        elif source is None:
            digest.update(b"none")
        else:
            pixels = np.asarray(source)
            digest.update(f"{pixels.dtype} {pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def save_checkpoint(path: Path, progress: Progress, config: TrainingConfig, images: str) -> None:
    """Writes it whole or not at all; ``images`` is their ``fingerprint``.

    Raises:
        OSError: the folder cannot be written to.
    """
    state = _State(
        config=config.model_dump(mode="json"),
        images=images,
        steps=len(progress.history),
        looks=progress.looks,
        seconds=progress.seconds,
    )
    history = [[float(value) for value in record.values()] for record in progress.history]  # type: ignore[arg-type]
    tensors = {
        _HISTORY: torch.tensor(history, dtype=torch.float64),
        **_named(_NETWORK, progress.network.state_dict()),
        **_named(_MOMENTUM, _momentum(progress)),
        **_named(_BEST, progress.best or {}),
    }
    state.sha256 = _digest(state, tensors)
    write_tensors(path, tensors, {_METADATA_KEY: state.model_dump_json()})


def load_checkpoint(path: Path, progress: Progress, config: TrainingConfig, images: str) -> None:
    """Carries a training that has just begun to where the checkpoint is, or leaves it as it is.

    Raises:
        ValueError: it is no checkpoint, damaged, or of other options or images; in one line.
        OSError: it cannot be read.
    """
    with opened_tensors(path, _ADVICE) as content:
        try:
            state = _State.model_validate_json((content.metadata() or {})[_METADATA_KEY])
        except (KeyError, ValidationError):
            text = "is no checkpoint of a training, is one of another version of DynamicSeg, or is damaged"
            raise Refusal(f"{text}: {_ADVICE}") from None
        _check_same(state, config, images)
        try:
            tensors = fitting_tensors(content, _wanted(state, progress, config), "it does not fit this training")
            # Whatever else has changed, training would go on from it, to other bits.
            if state.sha256 != _digest(state, tensors):
                raise Refusal("it is not what was written")
            history = _records(tensors[_HISTORY])
        except Refusal as damage:
            raise Refusal(f"is damaged, {damage}: {_ADVICE}") from None
    progress.network.load_state_dict(_of(_NETWORK, tensors))
    _set_momentum(progress, _of(_MOMENTUM, tensors))
    progress.best = _of(_BEST, tensors) or None
    progress.history, progress.looks, progress.seconds = history, state.looks, state.seconds


def _wanted(state: _State, progress: Progress, config: TrainingConfig) -> dict[str, Tensor]:
    """Tensors of the shapes and types that a checkpoint of this training holds; their values have no meaning."""
    if state.steps > config.steps:
        raise Refusal(f"it says that {state.steps} of {config.steps} steps are done")
    network = progress.network.state_dict()
    trained = progress.optimizer.param_groups[0]["params"] if config.momentum > 0 else []
    return {
        _HISTORY: torch.empty(state.steps, len(TrainingRecord.__annotations__), dtype=torch.float64, device="meta"),
        **_named(_NETWORK, network),
        **_named(_MOMENTUM, {str(number): parameter for number, parameter in enumerate(trained)}),
        **_named(_BEST, network if state.looks else {}),
    }


def _records(rows: Tensor) -> list[TrainingRecord]:
    if rows[:, 0].tolist() != list(range(1, len(rows) + 1)) or not bool(torch.isfinite(rows).all()):
        raise Refusal("its history is not one of steps")
    names = list(TrainingRecord.__annotations__)
    return [dict(zip(names, [int(row[0]), *row[1:]], strict=True)) for row in rows.tolist()]  # type: ignore[misc]


def _digest(state: _State, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a checkpoint holds; shapes and types are those of the training that it is for."""
    digest = hashlib.sha256(state.model_dump_json(exclude={"sha256"}).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_same(state: _State, config: TrainingConfig, images: str) -> None:
    wanted = config.model_dump(mode="json")
    differing = [name for name in wanted if name != "time_budget" and state.config.get(name) != wanted[name]]
    if differing:
        name = differing[0]
        was, now = state.config.get(name), wanted[name]
        raise Refusal(f"was made with {name} {was}, not {now}: pass the same options, or {_ADVICE}")
    if state.images != images:
        raise Refusal(f"was made with other images, or they have changed since: pass the same ones, or {_ADVICE}")


def _named(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{group}.{name}": tensor for name, tensor in tensors.items()}


def _of(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{group}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _momentum(progress: Progress) -> dict[str, Tensor]:
    """By the number of the parameter; none before the first step."""
    state = progress.optimizer.state_dict()["state"]
    return {str(number): entry["momentum_buffer"] for number, entry in state.items()}


def _set_momentum(progress: Progress, buffers: Mapping[str, Tensor]) -> None:
    state = progress.optimizer.state_dict()
    state["state"] = {int(number): {"momentum_buffer": buffer} for number, buffer in buffers.items()}
    progress.optimizer.load_state_dict(state)
