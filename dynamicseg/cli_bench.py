"""The commands ``dynamicseg bench ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynamicseg.cli_common import DATASETS, height_and_width, loading, names
from dynamicseg.cli_predict import bench_inference_command
from dynamicseg.cli_report import Verbose, report
from dynamicseg.cli_train import bench_train_command

bench_app = typer.Typer(
    help="Measure speed and quality on this machine.", epilog="Example: dynamicseg bench loss", no_args_is_help=True
)
bench_app.command("train", epilog="Example: dynamicseg bench train train/ val/ labels/ --ignore-label 11")(
    bench_train_command
)
bench_app.command("inference", epilog="Example: dynamicseg bench inference model.safetensors model.onnx")(
    bench_inference_command
)


@bench_app.command("loss", epilog="Example: dynamicseg bench loss --json loss.json")
def bench_loss_command(
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width of the response map.")] = "321x481",
    channels: Annotated[int, typer.Option(help="Channels of the response map.")] = 100,
    batch: Annotated[int, typer.Option(help="Images in the batch.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed rounds; in each, every competitor runs once.")] = 10,
    threads: Annotated[int | None, typer.Option(help="(default: as many as PyTorch uses)")] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to compute.")] = "cpu",
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Also against torch.compile.")] = True,
    memory: Annotated[bool, typer.Option("--memory", help="Also the peak of memory, each in a process.")] = False,
    options: Annotated[bool, typer.Option("--options", help="Also what each optional term costs, and all.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    verbose: Verbose = False,
) -> int:
    """The fused loss against the published form in eager PyTorch and under torch.compile, in one process.

    Milliseconds, how many times faster, and how far from the limit: reading and writing the map at the copy bandwidth
    that is measured beside. About two minutes.
    """
    with loading():
        from dynamicseg.bench import loss, loss_table
    return report(
        lambda tell: loss.run(
            size=height_and_width(size),
            channels=channels,
            batch=batch,
            repeats=repeats,
            threads=threads,
            device=device,
            compile=compiled,
            memory=memory,
            options=options,
            progress=tell,
        ),
        loss_table.table,
        json_path,
        verbose=verbose,
    )


@bench_app.command("step", epilog="Example: dynamicseg bench step --json step.json")
def bench_step_command(
    size: Annotated[str, typer.Option(metavar="HxW", help="Height and width of the image.")] = "321x481",
    channels: Annotated[int, typer.Option(help="Candidate labels, and width of the network.")] = 100,
    depth: Annotated[int, typer.Option(help="3x3 convolutions.")] = 2,
    repeats: Annotated[int, typer.Option(help="Turns of each competitor.")] = 5,
    steps: Annotated[int | None, typer.Option(help="Measured steps in a turn. (default: 2, on a GPU 20)")] = None,
    threads: Annotated[int | None, typer.Option(help="(default: as many as PyTorch uses)")] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to compute.")] = "cpu",
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Also against torch.compile.")] = True,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    verbose: Verbose = False,
) -> int:
    """A training step against the published one in eager PyTorch and against torch.compile, in one process.

    Milliseconds, how many times faster, what each part of the fused step takes, and how far it is from the limit: its
    convolutions, and reading and writing the maps between them at the speed of a copy. About two minutes.
    """
    with loading():
        from dynamicseg.bench import step, step_table
    return report(
        lambda tell: step.run(
            size=height_and_width(size),
            channels=channels,
            depth=depth,
            repeats=repeats,
            steps=steps,
            threads=threads,
            device=device,
            compile=compiled,
            progress=tell,
        ),
        step_table.table,
        json_path,
        verbose=verbose,
    )


@bench_app.command("segment", epilog="Example: dynamicseg bench segment photos/ --device cuda --json segment.json")
def bench_segment_command(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INPUT...]",
            help="Image files, folders or glob patterns; with --dataset its folder. (default: photos of scikit-image)",
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(metavar=DATASETS, help="Score against this data set, too.")] = None,
    split: Annotated[str, typer.Option(help="Which part of the data set.")] = "val",
    limit: Annotated[int | None, typer.Option(help="Images at the most. (default: all)")] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda|cuda:N", help="Where to compute.")] = "cpu",
    jobs: Annotated[int | None, typer.Option(metavar="N", help="As in segment.")] = None,
    preset: Annotated[str, typer.Option(metavar="fast|quality|paper", help="As in segment.")] = "fast",
    max_steps: Annotated[int | None, typer.Option(help="As in segment.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    verbose: Verbose = False,
) -> int:
    """Segment images as the command segment does, from file to written results, and say what takes how long.

    Seconds of each phase, images per second, peak memory, and with a data set the per-segment IoU of what was written.
    """
    with loading():
        from dynamicseg.bench import segment
    return report(
        lambda tell: segment.run(
            inputs or (),
            dataset=dataset,  # type: ignore[arg-type]
            split=split,
            limit=limit,
            device=device,
            jobs=jobs,
            preset=preset,
            max_steps=max_steps,
            progress=tell,
        ),
        segment.table,
        json_path,
        verbose=verbose,
    )


@bench_app.command("quality", epilog="Example: dynamicseg bench quality BSDS500 --limit 20 --json quality.json")
def bench_quality_command(
    root: Annotated[Path, typer.Argument(metavar="DATASET", help="The data set's folder.")],
    dataset: Annotated[str, typer.Option(metavar=DATASETS, help="How the folder is laid out.")] = "bsds500",
    split: Annotated[str, typer.Option(help="Which part of it.")] = "val",
    methods: Annotated[
        str, typer.Option(help="Separated by commas; options of a method after colons: felzenszwalb:scale=200.")
    ] = "dynamicseg,felzenszwalb,slic,kmeans",
    limit: Annotated[int | None, typer.Option(help="Images at the most. (default: all)")] = None,
    every: Annotated[int, typer.Option(help="Only every so many-th image by name.")] = 1,
    seeds: Annotated[int, typer.Option(help="Runs of each method that has a seed.")] = 1,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT", help="Keep label maps here, and go on from them.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    verbose: Verbose = False,
    plot_path: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Plot scores against time.")] = None,
) -> int:
    """Segment a labelled data set with several methods and score them side by side, time beside score."""
    with loading():
        from dynamicseg.bench import quality
    chosen = names(methods)
    return report(
        lambda tell: quality.run(
            root,
            dataset=dataset,  # type: ignore[arg-type]
            split=split,
            methods=chosen,
            limit=limit,
            every=every,
            seeds=seeds,
            output=output,
            progress=tell,
        ),
        quality.table,
        json_path,
        plot=None if plot_path is None else (quality.plot, plot_path),
        verbose=verbose,
    )


@bench_app.command("guidance", epilog="Example: dynamicseg bench guidance BSDS500 --limit 20 --rows none,scribbles")
def bench_guidance_command(
    root: Annotated[Path, typer.Argument(metavar="BSDS500", help="The data set's folder.")],
    split: Annotated[str, typer.Option(help="Which part of it.")] = "val",
    rows: Annotated[
        str, typer.Option(help="Separated by commas: none, scribbles, felzenszwalb-alone, felzenszwalb, noise, blocks.")
    ] = "none,scribbles,felzenszwalb-alone,felzenszwalb,noise,blocks",
    preset: Annotated[str, typer.Option(metavar="fast|quality|paper", help="As in segment.")] = "fast",
    guide_weight: Annotated[float | None, typer.Option(help="As in segment.")] = None,
    limit: Annotated[int | None, typer.Option(help="Images at the most. (default: all)")] = None,
    every: Annotated[int, typer.Option(help="Only every so many-th image by name.")] = 1,
    seed: Annotated[int, typer.Option(help="Of strokes, random labels and training.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    verbose: Verbose = False,
) -> int:
    """Segment annotated images with strokes drawn from an annotation, and with guides good and bad, and score them."""
    with loading():
        from dynamicseg.bench import guidance
    return report(
        lambda tell: guidance.run(
            root,
            split=split,
            rows=names(rows),
            limit=limit,
            every=every,
            seed=seed,
            options={"preset": preset, "guide_weight": guide_weight},
            progress=tell,
        ),
        guidance.table,
        json_path,
        verbose=verbose,
    )
