"""Opening and writing files: one line of text for every error, whole files or none."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class Refusal(Exception):
    """Why a file is not taken, in words and without its name; never leaves this package."""


def one_line(subject: str | os.PathLike[str], text: str) -> str:
    """Return `subject: text` without line breaks or control characters."""
    joined = f"{os.fspath(subject)}: {' '.join(text.split())}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def os_error(subject: str | os.PathLike[str], text: str, error: OSError) -> OSError:
    """Return an error of the same built-in kind as `error` that prints as one line."""
    kind = type(error) if type(error).__module__ == "builtins" else OSError
    reason = error.strerror or str(error) or type(error).__name__
    renamed = kind(one_line(subject, f"{text}: {reason}"))
    renamed.errno = error.errno
    return renamed


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular, non-empty file for reading.

    Whatever goes wrong inside the block is raised again as one line that starts with the path:
    `OSError` (or its subclass) when the system could not read, `ValueError` for anything else,
    because decoders fail on damaged files with every type from `struct.error` to `KeyError`.
    """
    _check_regular(path)
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise Refusal("is empty (0 bytes); copy or download it again")
            file.seek(0)
            yield file
    except Refusal as refusal:
        raise ValueError(one_line(path, str(refusal))) from refusal.__cause__
    except FileNotFoundError as error:
        raise FileNotFoundError(one_line(path, "no such file")) from error
    except MemoryError as error:
        text = "cannot be decoded: it asks for more memory than there is"
        raise ValueError(one_line(path, text)) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise os_error(path, "cannot be read", error) from error
        text = f"cannot be decoded, it is damaged or cut short ({_first_line(error)})"
        raise ValueError(one_line(path, text)) from error


def _check_regular(path: Path) -> None:
    if os.path.isdir(path):
        raise IsADirectoryError(one_line(path, "is a folder; name a file in it"))
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(one_line(path, "is not a regular file; save the image to a file first"))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file whole or not at all.

    Yields a temporary path in the same folder (hidden, same suffix), which takes the place of
    `path` when the block ends. If the block is left by any exception, an interrupt included, the
    temporary file is removed and `path` stays as it was. Missing folders are created.

    Raises:
        OSError: the folder cannot be made or written to; one line that names the folder.
    """
    path = Path(path)
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise os_error(folder, "cannot be made or used as a folder", error) from error
    # Not built on the name of `path`, which may already be as long as the system allows.
    temporary = folder / f".{secrets.token_hex(8)}{path.suffix}"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise os_error(folder, f"cannot write {path.name} there", error) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Makes the output folder; OSError, one line, if nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise os_error(folder, "is no folder that can be written to", error) from None
