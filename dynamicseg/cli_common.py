"""What the commands share: reading options, running something long, saying what is wrong. No torch here."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from dynamicseg._words import did_you_mean
from dynamicseg.exit_status import WRONG_CALL

DATASETS = "bsds500|labels|voc2012|coco-stuff"


class Unusable(Exception):
    """Nothing of this installation can run as it is called: a wrong environment variable, or no compiled module."""


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Around the imports of a command."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Unusable(f"the package {error.name} is not installed: pip install {error.name}") from error
    except (ImportError, ValueError) as error:
        raise Unusable(error) from error


def names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


OPTIONS_IN_PYTHON = frozenset(
    (
        *("area_exponent", "batch_size", "channel_axis", "compute_capability", "crop_size", "dilation_growth"),
        *("feature_cache", "feature_mean", "feature_multiple", "feature_outputs", "feature_std", "features"),
        *("guide_fades", "guide_ignore", "guide_weight", "label_floor", "scribble_none"),
        *("hardware_compatibility", "held_out", "ignore_label", "learning_rate", "max_labels", "max_side", "max_size"),
        *("max_steps", "min_agreement", "min_labels", "min_size", "n_labels", "optimization_level", "refit_from"),
        *("save_evolution", "superpixel_scale", "time_budget", "timing_cache", "version_compatible"),
        *("activations", "batch", "calibration", "channels", "continuity", "coordinates", "dataset", "depth"),
        *("device", "diagonals", "images"),
        *("jobs", "limit", "methods", "mu", "opset", "order", "patience", "precision", "preset", "protocol"),
        *("provider", "refit", "repeats", "resize", "seed", "seeds", "size", "split", "steps", "stride", "threads"),
        *("tile", "weighting", "width", "workspace"),
    )
)
"""What messages of the package call the options of all commands: ``--n-labels`` is ``n_labels``."""

# A name with an underscore is no English word, and means the option wherever it stands but in a path or in code.
_SAYS_OPTION = re.compile(
    rf"(?<![\w/\\.='\"-])({'|'.join(sorted(name for name in OPTIONS_IN_PYTHON if '_' in name))})(?![\w/\\=-]|\.\w)"
)
# Any other name only where a message begins with it and goes on with what was given or wanted: "seed wants ...".
_BEGINS_WITH_OPTION = re.compile(
    rf"(?:(?<=; )|^)({'|'.join(sorted(name for name in OPTIONS_IN_PYTHON if '_' not in name))})"
    r"(?= wants | is -?\d| '| cuda\b| (?:is|are chosen) for int8)"
)


def in_options(text: str) -> str:
    """A message of the package in one line, with options as the user of the command line has typed them."""
    line = " ".join(text.split())
    for pattern in (_SAYS_OPTION, _BEGINS_WITH_OPTION):
        line = pattern.sub(lambda found: f"--{found[1].replace('_', '-')}", line)
    return line


def usage_in_words(error: Any) -> str:
    """What the command line library found wrong with a call, in the words that all other messages have.

    Args:
        error: its exception for wrong calls; which one has what attributes depends on what is wrong.
    """
    text: str = error.format_message()
    context = getattr(error, "ctx", None)
    unknown = getattr(error, "option_name", None)
    if unknown is not None and context is not None:
        known = [name for parameter in context.command.params for name in parameter.opts]
        hint = did_you_mean(unknown, known) or f"; {context.command_path} --help lists what there is"
        return f"{context.command_path} has no option {unknown}{hint}"
    if context is not None and (unknown_command := re.match(r"No such command '([^']*)'", text)):
        command = unknown_command[1]
        hint = did_you_mean(command, context.command.commands) or f"; {context.command_path} --help lists what there is"
        return f"{context.command_path} has no command {command}{hint}"
    if invalid := re.fullmatch(r"Invalid value for '([^']*)'(?: / '[^']*')*: (.*)", text, re.DOTALL):
        wanted = invalid[2].removeprefix("Input should be ").partition(", unable to parse")[0]
        wanted = wanted.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
        return f"{invalid[1]} wants {wanted.replace('a valid integer', 'a whole number').replace('valid ', '')}"
    if text.startswith("Missing") and context is not None:
        return f"{text[0].lower()}{text[1:].rstrip('.')}; {context.command_path} --help shows how it is called"
    return text


def say(text: str) -> None:
    """A message on stderr, one line."""
    print(f"dynamicseg: {in_options(text)}", file=sys.stderr)


def wrong_call(text: str) -> int:
    """Says what is wrong with the call, and returns the exit status."""
    if text:  # none where there is only the help to show
        say(text)
    return WRONG_CALL


def height_and_width(size: str) -> tuple[int, int]:
    """What ``--size`` means; ValueError if it means nothing."""
    try:
        height, width = (int(number) for number in size.lower().split("x"))
    except ValueError:
        raise ValueError(f"--size {size}: wants HEIGHTxWIDTH, for example 321x481") from None
    return height, width


def label_floor_named(text: str | None) -> Any:
    """What ``--label-floor`` means; what is neither a number nor ``auto`` is refused by ``config.configure``."""
    return int(text) if text is not None and text.isdecimal() else text
