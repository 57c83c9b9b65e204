"""What messages have in common: counted things, and guesses at what was meant. No import but the standard library."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def counted(count: int, thing: str, things: str | None = None) -> str:
    """``1 band``, ``2 bands``; ``things`` where the plural has more than an s."""
    return f"{count} {thing}" if count == 1 else f"{count} {things or thing + 's'}"


def in_one_line(error: BaseException) -> str:
    """What ``error`` says, without line breaks; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """``; did you mean fast?``, to end a message with; nothing where no known word is near ``word``."""
    nearest = difflib.get_close_matches(str(word).lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""
