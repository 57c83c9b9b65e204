"""The command ``dynamicseg export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynamicseg.cli_common import height_and_width, names, say, wrong_call
from dynamicseg.cli_features import BackboneFile
from dynamicseg.cli_report import Verbose, telling
from dynamicseg.exit_status import DONE, SOME_FAILED


def export_command(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A .safetensors file of train; for engines also an exported .onnx file."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help=".onnx or .engine file to write.")],
    to: Annotated[
        str | None,
        typer.Option(metavar="onnx|tensorrt|tensorrt-rtx", help="Format. (default: onnx for a FILE that ends so)"),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="fp32|fp16|int8", help="Of the convolutions; bytes go in and labels come out.")
    ] = "fp32",
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="int8: images like those that the model will see, to measure ranges on."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Images on which labels are compared with those of the model. (default: those of --calibration, or "
            "photos of scikit-image)",
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            metavar="0..1",
            help="Share of pixels whose label must be that of the model. (default: 0.999 for fp32, 0.99 for fp16, 0.95 "
            "for int8)",
        ),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic/--static", help="Any batch, height and width, or just --size and --batch.")
    ] = True,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="With --static the only size; of an engine else the size it is tuned for."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="With --static the only batch; of an engine else the largest.")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="onnx: version of the operators. (default: 20)")] = None,
    activations: Annotated[
        str | None,
        typer.Option(
            metavar="uint8|int8",
            help="onnx, int8: uint8 is finer and faster on CPUs, int8 is what TensorRT takes. (default: uint8)",
        ),
    ] = None,
    min_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Engines: the smallest image. (default: 32x32)")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Engines: the largest image, which decides the memory. (default: 1088x1920)"),
    ] = None,
    workspace: Annotated[
        float | None, typer.Option(metavar="GIB", help="Engines: scratch memory at the most. (default: no limit)")
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(metavar="0..5", help="tensorrt: how long to look for fast kernels. (default: 3)")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="tensorrt: keep measured times here; later builds are faster.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="tensorrt: the engine also runs on newer versions.")
    ] = False,
    hardware_compatibility: Annotated[
        str | None,
        typer.Option(
            metavar="ampere+|same-compute-capability",
            help="tensorrt: on which other GPUs the engine runs as well. (default: GPUs like the one here)",
        ),
    ] = None,
    compute_capabilities: Annotated[
        str | None,
        typer.Option(
            "--compute-capability",
            metavar="LIST",
            help="tensorrt-rtx: of the GPUs that the engine is for, with commas. (default: 8.0,8.6,8.9,12.0)",
        ),
    ] = None,
    backbone: BackboneFile = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Engines: can take the weights of another model of the same shape.")
    ] = False,
    refit_from: Annotated[
        Path | None,
        typer.Option(metavar="ENGINE", help="Give this engine the weights of MODEL, in place of building one."),
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")] = False,
    verbose: Verbose = False,
) -> int:
    """Write a trained model for ONNX Runtime, TensorRT or TensorRT-RTX.

    The file takes uint8 images, batch x height x width x bands, and gives int32 labels, batch x height x width. It is
    run beside the model on real images before it is put in place. An engine gets FILE.json beside it, which says what
    it is for. Exit status: 0 done, 1 too few labels are those of the model, 2 wrong call.
    """
    try:
        from dynamicseg.export import export
        from dynamicseg.export.parity import TooLittleAgreement

        try:
            with telling(quiet=quiet, verbose=verbose and not quiet) as tell:
                tell("reading the model")
                exported = export(
                    model,
                    output,
                    format=to,
                    progress=tell,
                    backbone=backbone,
                    precision=precision,
                    calibration=calibration,
                    images=images,
                    min_agreement=min_agreement,
                    dynamic=dynamic,
                    size=_size(size),
                    batch=batch,
                    opset=opset,
                    activations=activations,
                    min_size=_size(min_size),
                    max_size=_size(max_size),
                    workspace=workspace,
                    optimization_level=optimization_level,
                    timing_cache=timing_cache,
                    version_compatible=version_compatible,
                    hardware_compatibility=hardware_compatibility,
                    compute_capabilities=None if compute_capabilities is None else tuple(names(compute_capabilities)),
                    refit=refit,
                    refit_from=refit_from,
                )
        except TooLittleAgreement as error:
            say(str(error))
            return SOME_FAILED
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        return wrong_call(str(error))
    if not quiet:
        for line in exported.summary():
            print(line)
    return DONE


def _size(text: str | None) -> tuple[int, int] | None:
    return None if text is None else height_and_width(text)
