"""``python -m dynamicseg.predict``: prediction on a device that has only NumPy, Pillow and ONNX Runtime.

The same as ``dynamicseg predict`` without what its libraries do: progress, ``--resume``.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dynamicseg.cli_common import names, say
from dynamicseg.exit_status import DONE, INTERRUPTED, SOME_FAILED, TERMINATED, WRONG_CALL
from dynamicseg.inputs import find_images
from dynamicseg.predict import load
from dynamicseg.predict_work import PredictWork, check_call, chosen_formats
from dynamicseg.video_files import MEDIA_SUFFIXES


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, and returns the exit status; what goes wrong is one line on stderr."""
    # As Ctrl-C does, so that no half-written file stays when the device shuts down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    options = _parser().parse_args(arguments)
    providers = None if options.provider is None else names(options.provider)
    try:
        image_formats, video_formats = chosen_formats(None if options.format is None else names(options.format))
        check_call(options.output, image_formats, options.tile)
        predictor = load(options.model, providers=providers, threads=options.threads, device=options.device)
    except (ValueError, OSError, ImportError, MemoryError) as error:
        return _say(error, WRONG_CALL)
    work = PredictWork(
        options.output,
        image_formats,
        options.channel_axis,
        predictor=predictor,
        tile=options.tile,
        video_formats=video_formats,
    )
    found = find_images(options.inputs, MEDIA_SUFFIXES)
    status = DONE
    for problem in found.problems:
        status = _say(problem, SOME_FAILED)
    try:
        for image in found.images:
            outcome = work.do(image, lambda *_: None)
            if outcome.failed:
                status = _say(outcome.text, SOME_FAILED)
            elif options.verbose:
                print(outcome.text, file=sys.stderr)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sys.exit(_say(message, WRONG_CALL))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m dynamicseg.predict", description="Label images and videos with a trained model.")
    parser.add_argument("model", metavar="MODEL", help=".onnx, .engine or .safetensors file")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders or glob patterns")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    parser.add_argument(
        "--format", metavar="LIST", help="with commas: png, overlay, json, boundaries, npy, coco, geojson"
    )
    parser.add_argument("--tile", type=int, metavar="PIXELS", help="side of the tiles of large images")
    parser.add_argument(
        "--provider", metavar="NAME", help="of ONNX Runtime, with commas: cuda, openvino, cpu, tensorrt"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="on the CPU")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda|cuda:N", help="where to compute")
    parser.add_argument("--channel-axis", type=int, metavar="AXIS", help="of a TIFF with three axes")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each input")
    return parser


def _say(text: object, status: int) -> int:
    say(str(text))
    return status
