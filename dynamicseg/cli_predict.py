"""The command ``dynamicseg predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynamicseg.cli_common import height_and_width, loading, names, wrong_call
from dynamicseg.cli_features import BackboneFile
from dynamicseg.cli_report import Verbose, report


def predict_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help=".safetensors, .onnx or .engine file.")],
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images and videos: files, folders or glob patterns.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder for the results.")],
    tile: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            help="Larger images go through in overlapping tiles of so many pixels a side; labels are those of the "
            "whole image. (default: as memory allows)",
        ),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            metavar="cuda|openvino|cpu|tensorrt",
            help="What ONNX Runtime computes on, with commas: the first that works. tensorrt builds an engine at each "
            "start. (default: the first of cuda, openvino, cpu)",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="On the CPU. (default: as many as cores)")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N", help="Where to compute.")] = "auto",
    backbone: BackboneFile = None,
    channel_axis: Annotated[
        int | None,
        typer.Option(
            metavar="AXIS",
            help="Which axis of a TIFF with three holds the bands, 0 for a stack of them. (default: as the file says)",
        ),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="LIST",
            help="Files to write, with commas: png, overlay, json, and of images boundaries, npy, coco, geojson. "
            "(default: png,overlay,json; of videos overlay,json)",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip inputs already done with this model.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="A line for each input, also in a pipe.")] = False,
) -> int:
    """Label images and videos with a trained or exported model: the same label is the same number in all of them.

    For each image named STEM writes STEM_labels.png, STEM_overlay.png and STEM.json as segment does; for each video
    STEM_overlay.mp4 and STEM.json, and with --format png a folder STEM_labels with a label map for each frame. An
    engine is code for the GPU: use only engines that you or people you trust have built. Exit status: 0 all done,
    1 some inputs failed, 2 wrong call.
    """
    try:
        from dynamicseg.batch import Batch
        from dynamicseg.inputs import find_images
        from dynamicseg.predict import load
        from dynamicseg.predict_work import PredictWork, check_call, chosen_formats
        from dynamicseg.video_files import MEDIA_SUFFIXES

        image_formats, video_formats = chosen_formats(None if formats is None else names(formats))
        check_call(output, image_formats, tile)
        if resume and "json" not in image_formats:
            raise ValueError("--resume tells what is done from the JSON: add json to --format")
        predictor = load(
            model,
            providers=None if provider is None else names(provider),
            threads=threads,
            device=device,
            backbone=backbone,
        )
    except (ValueError, OSError, ImportError, MemoryError) as error:
        return wrong_call(str(error))
    work = PredictWork(output, image_formats, channel_axis, predictor=predictor, tile=tile, video_formats=video_formats)
    found = find_images(inputs, MEDIA_SUFFIXES)
    return Batch(work, resume=resume, quiet=quiet, verbose=verbose).run(found)


def bench_inference_command(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help=".safetensors, .onnx and .engine files of the same trained model."),
    ],
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width of the images.")] = "321x481",
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Images on which labels are compared. (default: those of scikit-image)"),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images in a call.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed rounds; in each, every form runs once.")] = 20,
    threads: Annotated[int | None, typer.Option(help="(default: as many as PyTorch uses)")] = None,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Also under torch.compile.")] = True,
    memory: Annotated[bool, typer.Option(help="Also the peak of memory, each in a process of its own.")] = True,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    verbose: Verbose = False,
) -> int:
    """Latency, throughput, memory and label agreement of every form of a model that runs on this machine.

    A .safetensors file runs in eager PyTorch and under torch.compile; the first file is what labels are compared with.
    """
    with loading():
        from dynamicseg.bench import inference
    return report(
        lambda tell: inference.run(
            models,
            size=height_and_width(size),
            images=images,
            batch=batch,
            repeats=repeats,
            threads=threads,
            compile=compiled,
            memory=memory,
            progress=tell,
        ),
        inference.table,
        json_path,
        verbose=verbose,
    )
