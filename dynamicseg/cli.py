"""The command line. torch is imported by the commands that need it, so that `--help` answers at once."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

try:
    import typer
except ImportError as error:  # on a device that has what `python -m dynamicseg.predict` needs, and no more
    print(
        f"dynamicseg: the command needs a package that is not installed ({error}); without it there is python -m "
        "dynamicseg.predict, which labels images with ONNX files and engines",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

from dynamicseg.cli_bench import bench_app
from dynamicseg.cli_common import DATASETS, Unusable, label_floor_named, loading, names, usage_in_words, wrong_call
from dynamicseg.cli_export import export_command
from dynamicseg.cli_features import (
    FeatureCache,
    FeatureMean,
    FeatureMultiple,
    FeatureOutputs,
    FeatureSource,
    FeatureStd,
    three_numbers,
)
from dynamicseg.cli_predict import predict_command
from dynamicseg.cli_report import Verbose, report
from dynamicseg.cli_train import train_command
from dynamicseg.exit_status import DONE, INTERRUPTED, TERMINATED
from dynamicseg.terms import DEFAULT_SCRIBBLE_NONE
from dynamicseg.weighting import DEFAULT_MU, WEIGHTINGS

app = typer.Typer(
    name="dynamicseg",
    help="Segment images with no labels: a small network is trained on each image.",
    epilog="Example: dynamicseg segment photos/ -o out",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# What the command line library raises for a wrong call; its own base class has no public name.
_UsageError: Any = typer.BadParameter.__mro__[1]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line; a mistake in the call is one line on stderr and exit status 2."""
    # As Ctrl-C does, so that no half-written file stays when a job scheduler ends the run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="dynamicseg", standalone_mode=False)
    except _UsageError as error:
        status = wrong_call(usage_in_words(error))
    except Unusable as error:
        status = wrong_call(str(error))
    except typer.Abort:
        status = INTERRUPTED
    except KeyboardInterrupt:
        print("dynamicseg: interrupted", file=sys.stderr)
        status = INTERRUPTED
    sys.exit(status if isinstance(status, int) else DONE)


def _print_version(wanted: bool) -> None:
    if wanted:
        from dynamicseg.segmentation import package_version

        print(f"dynamicseg {package_version()}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


_MU_HELP = ", ".join(f"{DEFAULT_MU[name]:g} for {name}" for name in WEIGHTINGS)


@app.command(
    "segment",
    epilog="Example: dynamicseg segment photos/ -o out --preset paper --max-steps 50",
)
def segment_command(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Image files, folders or glob patterns.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder for the results.")],
    preset: Annotated[
        str,
        typer.Option(
            metavar="fast|quality|pretrained|paper",
            help="fast: regions, after a few steps; quality: from finer superpixels; pretrained: the same with "
            "features of a pretrained network; paper: the published network and schedule.",
        ),
    ] = "fast",
    weighting: Annotated[
        str | None,
        typer.Option(
            metavar="fsf|scf|fixed",
            help="How the number of labels K weights continuity: fsf K/mu, scf mu/K, fixed mu. "
            "(default: fsf for paper, else scf)",
        ),
    ] = None,
    mu: Annotated[float | None, typer.Option(help=f"Constant of the weighting. (default: {_MU_HELP})")] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Training steps at the most. (default: 1000 for paper, else 12)")
    ] = None,
    n_labels: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help="Give just so many labels: the closest are merged, or the most varied split. (default: as many as "
            "there are)",
        ),
    ] = None,
    min_labels: Annotated[
        int | None,
        typer.Option(metavar="K", help="Give so many labels or more. (default: no limit)"),
    ] = None,
    max_labels: Annotated[
        int | None, typer.Option(metavar="K", help="Give so many labels or fewer. (default: no limit)")
    ] = None,
    area_exponent: Annotated[
        float | None,
        typer.Option(
            metavar="0.6..1.1",
            help="Lower keeps more small regions, higher gives fewer and larger. (default: 0.8)",
        ),
    ] = None,
    time_budget: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="For each image, reading it included: training stops in time, after one step at the least. "
            "(default: no limit)",
        ),
    ] = None,
    max_side: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            help="Segment larger images at reduced size, so many pixels on the longer side; results keep the size of "
            "the image. (default: no limit)",
        ),
    ] = None,
    scribbles: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Label images with strokes drawn: what they mark keeps its number, and grows over what it means. In a "
            "folder x.png or x_scribble.png goes with the input x.",
        ),
    ] = None,
    scribble_none: Annotated[
        int, typer.Option(metavar="VALUE", help="In --scribbles: nothing was drawn here.")
    ] = DEFAULT_SCRIBBLE_NONE,
    guide: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Label images of another model, of any size: regions that it sees are preferred.",
        ),
    ] = None,
    guide_ignore: Annotated[
        int | None, typer.Option(metavar="VALUE", help="In --guide: any label will do here. (default: nowhere)")
    ] = None,
    guide_weight: Annotated[
        float | None, typer.Option(metavar="W", help="What the guide counts; 0: nothing. (default: 1)")
    ] = None,
    guide_fades: Annotated[
        bool | None,
        typer.Option(
            "--guide-fades/--guide-stays", help="In training, less from step to step, or not. (default: fades)"
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER", help="Images that are 0 where there is no data: it has no label, and counts nowhere."
        ),
    ] = None,
    label_floor: Annotated[
        str | None,
        typer.Option(
            metavar="K|auto",
            help="The weighting takes the number of labels for at least K; auto: as many as colours fall into by the "
            "silhouette score. (default: 1)",
        ),
    ] = None,
    continuity: Annotated[
        str | None,
        typer.Option(metavar="l1|huber", help="How differences of neighbours count: huber is smooth. (default: l1)"),
    ] = None,
    diagonals: Annotated[bool, typer.Option("--diagonals", help="Diagonal neighbours count as well.")] = False,
    features: FeatureSource = None,
    feature_outputs: FeatureOutputs = None,
    feature_mean: FeatureMean = None,
    feature_std: FeatureStd = None,
    feature_multiple: FeatureMultiple = None,
    feature_cache: FeatureCache = None,
    seed: Annotated[int, typer.Option(help="Same seed and --jobs, same labels on the same machine.")] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N", help="Where to compute.")] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="auto|float32|bfloat16",
            help="Of the convolutions; auto: bfloat16, which is faster, where the processor has it. "
            "(default: float32 for paper, else auto)",
        ),
    ] = None,
    channel_axis: Annotated[
        int | None,
        typer.Option(
            metavar="AXIS",
            help="Which axis of a TIFF with three holds the bands, 0 for a stack of them. (default: as the file says)",
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="LIST",
            help="Files to write, with commas: any of png, overlay, json, boundaries, npy, coco, geojson.",
        ),
    ] = "png,overlay,json",
    save_evolution: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.gif",
            help="For one image: an animated GIF of its labels, step by step. (default: none)",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            metavar="N",
            help="Images at a time, each in a process with its share of the threads, and with memory of its own. "
            "Another number of threads rounds differently, which leads to other labels; the JSON says how many there "
            "were. On a GPU: processes that read images and write results beside it; labels stay the same. (default: "
            "1; on a GPU the cores but one, at most 16)",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip images already done with these settings.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="A line for each image, also in a pipe.")] = False,
) -> int:
    """Segment images: label maps, overlays and what led to them.

    For each INPUT named STEM writes STEM_labels.png (label numbers, with a palette), STEM_overlay.png (regions over the
    image) and STEM.json (configuration, areas, history). Exit status: 0 all done, 1 some inputs failed, 2 wrong call.
    """
    with loading():
        from dynamicseg._files import check_writable
        from dynamicseg.batch import Batch
        from dynamicseg.evolution import check_file
        from dynamicseg.guidance import LabelFile
        from dynamicseg.guidance_files import find_guidance
        from dynamicseg.inputs import find_images
        from dynamicseg.segment_work import SegmentWork, default_jobs
        from dynamicseg.segmentation import output_paths
        from dynamicseg.segmenter import Segmenter

    wanted_formats = names(formats)
    try:
        output_paths(output, "stem", wanted_formats)
        if resume and "json" not in wanted_formats:
            raise ValueError("--resume tells what is done from the JSON: add json to --format")
        segmenter = Segmenter(
            preset=preset,  # type: ignore[arg-type]
            weighting=weighting,  # type: ignore[arg-type]
            mu=mu,
            max_steps=max_steps,
            n_labels=n_labels,
            min_labels=min_labels,
            max_labels=max_labels,
            area_exponent=area_exponent,
            time_budget=time_budget,
            max_side=max_side,
            continuity=continuity,  # type: ignore[arg-type]
            diagonals=diagonals or None,
            label_floor=label_floor_named(label_floor),
            guide_weight=guide_weight,
            guide_fades=guide_fades,
            features=features,
            feature_outputs=None if feature_outputs is None else names(feature_outputs),
            feature_mean=three_numbers("feature-mean", feature_mean),
            feature_std=three_numbers("feature-std", feature_std),
            feature_multiple=feature_multiple,
            feature_cache=feature_cache,
            seed=seed,
            device=device,
            precision=precision,  # type: ignore[arg-type]
        )
        folders = {
            "scribbles": (scribbles, scribble_none),
            "guide": (guide, guide_ignore),
            "mask": (mask, None),
        }
        files, found = find_guidance(
            find_images(inputs),
            {kind: LabelFile(path, none) for kind, (path, none) in folders.items() if path is not None},
        )
        check_writable(output)
        if save_evolution is not None:
            check_file(save_evolution, found.images)
            check_writable(save_evolution.parent)
    except (ValueError, OSError) as error:
        return wrong_call(str(error))
    work = SegmentWork(
        output,
        tuple(wanted_formats),
        channel_axis,
        jobs or default_jobs(segmenter),
        segmenter=segmenter,
        guidance=files,
        evolution=save_evolution,
    )
    return Batch(work, resume=resume, quiet=quiet, verbose=verbose, notes=files.notes).run(found)


app.command("train", epilog="Example: dynamicseg train photos/ -o model.safetensors --n-labels 8")(train_command)
app.command("export", epilog="Example: dynamicseg export model.safetensors --to onnx -o model.onnx")(export_command)
app.command("predict", epilog="Example: dynamicseg predict model.onnx photos/ -o out")(predict_command)


@app.command(
    "evaluate", epilog="Example: dynamicseg evaluate out BSDS500 --dataset bsds500 --split val --json scores.json"
)
def evaluate_command(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Folder that segment has written.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="The data set's folder.")],
    dataset: Annotated[str, typer.Option(metavar=DATASETS, help="How TRUTH is laid out.")],
    protocol: Annotated[
        str, typer.Option(help="segment-iou, regions, boundaries, hungarian, majority, or all that apply; with commas.")
    ] = "all",
    split: Annotated[str | None, typer.Option(help="Which part of it. (default: the only one there is)")] = None,
    ignore_label: Annotated[
        int | None, typer.Option(help="Label in TRUTH that does not count. (default: 255 for voc2012 and coco-stuff)")
    ] = None,
    resize: Annotated[
        str | None, typer.Option(metavar="nearest", help="Make sizes fit. (default: another size is an error)")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    verbose: Verbose = False,
) -> int:
    """Score label maps against a data set."""
    with loading():
        from dynamicseg import evaluate
    protocols = names(protocol)
    return report(
        lambda tell: evaluate.evaluate(
            predictions,
            truth,
            dataset,  # type: ignore[arg-type]
            protocols,
            split=split,
            ignore_label=ignore_label,
            resize=resize,  # type: ignore[arg-type]
            progress=lambda done, total: tell(f"image {done} of {total}"),
        ),
        evaluate.table,
        json_path,
        verbose=verbose,
    )


@app.command("info", epilog="Example: dynamicseg info --json")
def info_command(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Versions, compiled features, instruction set, devices: what is active, and why."""
    with loading():
        from dynamicseg.info import collect

    facts = collect()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<{width}}  {', '.join(value) if isinstance(value, list) else value}")


app.add_typer(bench_app, name="bench")


if __name__ == "__main__":
    main()
