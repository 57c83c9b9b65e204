"""An engine and its sidecar: built or refitted, and compared with the model where there is a GPU that runs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynamicseg._files import one_line, opened
from dynamicseg.export.description import described, graph_bytes
from dynamicseg.export.formats import ExportOptions
from dynamicseg.export.gpu import this_gpu
from dynamicseg.export.graph import compared_graph
from dynamicseg.export.images import ImageSet, images_in, photos_at_hand
from dynamicseg.export.parity import agreement, check_agreement, engine_labels, onnx_labels
from dynamicseg.export.profile import profile_of
from dynamicseg.export.source import ModelSource, OnnxSource
from dynamicseg.export.tensorrt import MAKERS, EngineMaker, system
from dynamicseg.io import write_json
from dynamicseg.model_description import ModelDescription

Progress = Callable[[str], None]
_MAX_SIDECAR_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class _Origin:
    """An engine to refit.

    Attributes:
        plan: its bytes.
        engine: what its sidecar says of it.
    """

    plan: bytes
    engine: dict[str, Any]


def sidecar_path(path: Path) -> Path:
    """``model.engine.json`` of ``model.engine``."""
    return path.with_name(f"{path.name}.json")


def write_engine(
    source: ModelSource | OnnxSource, path: Path, kind: str, chosen: ExportOptions, progress: Progress
) -> dict[str, Any]:
    """Writes ``path`` and its sidecar, and returns what the sidecar says.

    Raises:
        ValueError, OSError, ImportError: see ``exporting.export``.
    """
    maker = MAKERS[kind].load()
    origin = None
    if chosen.refit_from is not None:
        origin, chosen = _origin(chosen.refit_from, maker, source.description, chosen)
    chosen = _as_source_is(source, chosen)
    maker.check(chosen)
    profile = profile_of(chosen, source.description.bands)
    if isinstance(source, OnnxSource):
        graph, exported, images = source.graph, dict(source.exported), _images_for(source, chosen)
        description = source.description
    else:
        made = compared_graph(source, chosen, symmetric=True, progress=progress)
        graph, exported, images, description = made.graph, made.exported, made.images, made.description
    content = graph_bytes(graph)
    if origin is None:
        progress(f"building with {maker.title} {maker.version}")
        built = maker.build(content, chosen, profile, progress)
        plan = built.plan
        engine = {
            "kind": kind,
            "version": maker.version,
            **maker.target(chosen),
            "profile": profile.as_json(),
            "tensors": built.tensors,
        }
    else:
        progress(f"refitting with {maker.title} {maker.version}")
        plan = maker.refitted(origin.plan, content)
        engine = origin.engine
    engine |= {
        "precision": chosen.precision,
        "sha256": hashlib.sha256(plan).hexdigest(),
        "onnx_sha256": hashlib.sha256(content).hexdigest(),
        **system(),
    }
    exported |= {
        "graph_agreement": exported["agreement"],
        "agreement": None,
        "worst_agreement": None,
        "compared_by": None,
    }
    path.write_bytes(plan)
    write_json(sidecar_path(path), described(description, export=exported, engine=engine))
    exported |= _comparison(path, source, images, engine, chosen, progress)
    metadata = described(description, export=exported, engine=engine)
    write_json(sidecar_path(path), metadata)
    return metadata


def _comparison(
    path: Path,
    source: ModelSource | OnnxSource,
    images: ImageSet,
    engine: dict[str, Any],
    chosen: ExportOptions,
    progress: Progress,
) -> dict[str, Any]:
    """``agreement`` of the engine itself, or why there is none."""
    gpu = this_gpu()
    if gpu is None:
        return {"not_compared": "there is no NVIDIA GPU here to run the engine"}
    if gpu.compute_capability not in engine["compute_capabilities"]:
        text = f"the GPU here is a {gpu.name} of compute capability {gpu.compute_capability}, which it is not for"
        return {"not_compared": text}
    progress("comparing labels on the GPU")
    try:
        labels = engine_labels(path)
    except ImportError as error:
        return {"not_compared": str(error)}
    batch = 1 if chosen.dynamic else chosen.batch or 1
    reference = (
        source.model.predict_array
        if isinstance(source, ModelSource)
        else onnx_labels(source.graph.SerializeToString(), batch)
    )
    found = agreement(labels, reference, images.images)
    check_agreement(found, chosen.least_agreement, "the engine")
    compared_by = f"{engine['kind']} {engine['version']} on {gpu.name}"
    return {
        "agreement": found.share,
        "worst_agreement": found.worst,
        "compared_by": compared_by,
    }


def _as_source_is(source: ModelSource | OnnxSource, chosen: ExportOptions) -> ExportOptions:
    """An ONNX file has its precision already, and its size where it is not dynamic."""
    if isinstance(source, ModelSource):
        return chosen
    has = source.exported
    if chosen.calibration is not None or chosen.precision not in ("fp32", has["precision"]):
        text = f"is {has['precision']} already: for another precision pass the .safetensors model"
        raise ValueError(one_line(source.path, text))
    quantization = has.get("quantization")
    if isinstance(quantization, dict) and quantization.get("activations") != "int8":
        text = "is int8 as CPUs want it; for engines export it with activations int8, or pass the .safetensors model"
        raise ValueError(one_line(source.path, text))
    chosen = replace(chosen, precision=has["precision"])
    shape = has.get("shape")
    if shape is None:
        return chosen
    if (chosen.size or (shape[1], shape[2])) != (shape[1], shape[2]):
        text = f"is for images of {shape[1]}x{shape[2]} alone: export it with dynamic sizes, or leave size out"
        raise ValueError(one_line(source.path, text))
    return replace(chosen, dynamic=False, size=(shape[1], shape[2]), batch=shape[0], min_size=None, max_size=None)


def _images_for(source: OnnxSource, chosen: ExportOptions) -> ImageSet:
    size = None if chosen.dynamic else chosen.size
    if chosen.images is not None:
        return images_in(chosen.images, source.description.bands, size)
    return photos_at_hand(source.description.bands, size)


def _origin(
    path: Path, maker: EngineMaker, description: ModelDescription, chosen: ExportOptions
) -> tuple[_Origin, ExportOptions]:
    """Reads an engine to refit, and the options that it was built with.

    Raises:
        ValueError: it is none, or does not fit the model, this version of TensorRT or this GPU.
    """
    beside = sidecar_path(path)
    with opened(beside) as file:
        content = file.read(_MAX_SIDECAR_BYTES)
    try:
        known = json.loads(content)
        engine, precision, shape = known["engine"], known["export"]["precision"], (known["bands"], known["label_count"])
        facts = engine["kind"], engine["version"], engine["sha256"], list(engine["flags"])
        smallest, tuned, largest = (tuple(engine["profile"][name]) for name in ("min", "opt", "max"))
        capabilities = tuple(engine["compute_capabilities"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(one_line(beside, "is damaged, or not written by dynamicseg export: build it again")) from None
    with opened(path) as file:
        plan = file.read()
    if facts[:2] != (maker.kind, maker.version):
        text = f"was built by {facts[0]} {facts[1]}, here is {maker.kind} {maker.version}: build it again"
        raise ValueError(one_line(path, text))
    if facts[2] != hashlib.sha256(plan).hexdigest():
        raise ValueError(one_line(path, f"is not the engine that {beside.name} was written for: build it again"))
    if "refit" not in facts[3]:
        raise ValueError(one_line(path, "cannot be refitted: build it with refit"))
    network = description.network.model_dump(mode="json")
    if shape != (description.bands, description.label_count) or known.get("network") != network:
        text = "is of a model of another shape: bands, labels and network must be the same; build an engine"
        raise ValueError(one_line(path, text))
    if precision == "int8" and chosen.calibration is None:
        raise ValueError(one_line(path, "is int8: calibration is wanted, a folder of images"))
    options = replace(
        chosen,
        precision=precision,
        refit=True,
        dynamic=smallest != largest,
        size=tuned[1:3],
        min_size=smallest[1:3],
        max_size=largest[1:3],
        batch=largest[0],
        compute_capabilities=capabilities,
    )
    return _Origin(plan, dict(engine)), options
