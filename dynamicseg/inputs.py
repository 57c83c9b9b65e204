"""From command line arguments to the images they name, each with the stem of its output files."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from dynamicseg._files import one_line
from dynamicseg.io import IMAGE_SUFFIXES

_OUTPUT_TAILS = ("_labels", "_overlay", "_boundaries")
_CURVE_TAIL = "_training"


@dataclass(frozen=True)
class InputImage:
    """One image file to segment.

    Attributes:
        path: where it is, as it was named or found.
        stem: its output files, relative to the output folder and without suffix, with forward
            slashes: `a/x` stands for `a/x_labels.png` and so on. Unique within one call, also
            where upper and lower case count as equal, and never outside the output folder.
    """

    path: Path
    stem: str


@dataclass(frozen=True)
class FoundInputs:
    """What the arguments of one call name.

    Attributes:
        images: each file once, in the order of the arguments; files of one folder by name.
        problems: one line for each argument or folder that gave nothing, starting with its name.
        skipped: files left out because an earlier run wrote them.
    """

    images: tuple[InputImage, ...]
    problems: tuple[str, ...]
    skipped: tuple[Path, ...]


@dataclass(frozen=True)
class _Candidate:
    path: Path
    parts: tuple[str, ...]  # of the absolute path, without drive or root
    depth: int  # how many of the parts the stem has at least
    named: bool  # by the user, not found in a folder or by a pattern


def find_images(arguments: Sequence[str], suffixes: Set[str] = IMAGE_SUFFIXES) -> FoundInputs:
    """Find the images that files, folders and glob patterns name.

    - A file is taken whatever its suffix.
    - A folder is searched with its subfolders for the suffixes in `suffixes`, in lower case. Hidden files
      and folders are left out.
    - A pattern with `*`, `?` or `[` that is no existing file is expanded, `**` with subfolders. It
      finds files with known suffixes, or any that end as the pattern does if that spells a suffix.

    Results of an earlier run are no inputs. `x_labels.*`, `x_overlay.*` and `x_boundaries.*` are
    left out if they were found by a search and `x.json` or an image `x` lies beside them. If they
    were named (as the shell does with `*.png`), it takes both: `x.json`, and the image among the
    inputs. So a file that is named on its own is always taken. The curve of a training,
    `x_training.png` beside `x_training.json`, is always left out.

    The stem is the name without suffix; below a folder that was given, its path relative to that
    folder. Where two stems would be equal, files from different folders keep as much of their path
    as tells them apart, and files in the same folder their suffix: `x_jpg` and `x_png`.

    What is not there is reported in `problems` and does not stop the others.
    """
    found: dict[Path, _Candidate] = {}
    problems: list[str] = []
    for argument in arguments:
        try:
            candidates = list(_candidates(argument, suffixes, problems))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            problems.append(one_line(argument, f"cannot be searched: {reason}"))
            continue
        for candidate in candidates:
            found.setdefault(_identity(candidate.path), candidate)
    kept, skipped = _without_outputs(list(found.values()))
    images = tuple(InputImage(candidate.path, stem) for candidate, stem in zip(kept, _unique_stems(kept), strict=True))
    return FoundInputs(images, tuple(problems), tuple(skipped))


def _candidates(argument: str, suffixes: Set[str], problems: list[str]) -> Iterator[_Candidate]:
    path = Path(argument)
    if argument and os.path.isdir(path):
        images = _images_below(path, suffixes, problems)
        if not images:
            problems.append(one_line(argument, "this folder holds no images"))
        for image in images:
            yield _candidate(image, depth=len(image.relative_to(path).parts), named=False)
    elif argument and os.path.exists(path):
        yield _candidate(path, depth=1, named=True)
    elif any(c in argument for c in "*?["):
        matches = _matches(argument, suffixes)
        if not matches:
            problems.append(one_line(argument, "no image matches this pattern"))
        for match in matches:
            yield _candidate(match, depth=1, named=False)
    else:
        problems.append(one_line(argument or "''", "no such file or folder"))


def _candidate(path: Path, *, depth: int, named: bool) -> _Candidate:
    absolute = Path(os.path.abspath(path))  # unlike resolve(), keeps the names that were given
    return _Candidate(path, absolute.parts[len(Path(absolute.anchor).parts) :], depth, named)


def _identity(path: Path) -> Path:
    """Return the absolute path without `..`; a link keeps its own name."""
    return path.parent.resolve() / path.name


def _is_image_name(name: str, suffixes: Set[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")


def _images_below(folder: Path, suffixes: Set[str], problems: list[str]) -> list[Path]:
    def report(error: OSError) -> None:
        problems.append(one_line(error.filename, f"cannot be searched: {error.strerror}"))

    images = []
    visited: set[str] = set()  # links can lead round in circles
    for root, folders, files in os.walk(folder, onerror=report, followlinks=True):
        real = os.path.realpath(root)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images += [Path(root, name) for name in files if _is_image_name(name, suffixes)]
    return sorted(images, key=lambda image: image.parts)


def _matches(pattern: str, suffixes: Set[str]) -> list[Path]:
    suffix = os.path.splitext(pattern)[1]
    spelled = bool(suffix) and not any(c in suffix for c in "*?[")
    files = [Path(match) for match in glob.glob(pattern, recursive=True) if os.path.isfile(match)]
    return sorted(
        (file for file in files if spelled or _is_image_name(file.name, suffixes)),
        key=lambda f: f.parts,
    )


def _without_outputs(found: list[_Candidate]) -> tuple[list[_Candidate], list[Path]]:
    """Split off what an earlier run wrote."""
    sources = {(c.parts[:-1], stem) for c in found for stem in _leaf_names(c.parts[-1])}
    kept: list[_Candidate] = []
    skipped: list[_Candidate] = []
    for candidate in found:
        (skipped if _is_output(candidate, sources) else kept).append(candidate)
    return kept, [candidate.path for candidate in skipped]


def _is_output(candidate: _Candidate, sources: set[tuple[tuple[str, ...], str]]) -> bool:
    folder, stem = candidate.parts[:-1], candidate.path.stem
    if stem.endswith(_CURVE_TAIL) and candidate.path.with_suffix(".json").exists():
        return True
    for tail in _OUTPUT_TAILS:
        if stem.endswith(tail) and stem != tail:
            origin = stem[: -len(tail)]
            described = candidate.path.with_name(f"{origin}.json").exists()
            beside = (folder, origin) in sources
            return (described and beside) if candidate.named else (described or beside)
    return False


def _leaf_names(name: str) -> tuple[str, str]:
    """Return the last part of the stem, and the same with the suffix in it."""
    stem, suffix = os.path.splitext(name)
    return stem, f"{stem}_{suffix[1:]}" if suffix[1:] else stem


def _unique_stems(candidates: Sequence[_Candidate]) -> list[str]:
    """Return a stem for each, different from all others even without regard to case."""
    with_suffix = _in_one_folder_with_equal_names(candidates)
    leaves = [_leaf_names(c.parts[-1])[k in with_suffix] for k, c in enumerate(candidates)]
    depths = [c.depth for c in candidates]

    def stems() -> list[str]:
        return [
            "/".join((*c.parts[-depth:-1], leaf)) for c, depth, leaf in zip(candidates, depths, leaves, strict=True)
        ]

    while True:
        growing = [k for k in _clashing(stems()) if depths[k] < len(candidates[k].parts)]
        if not growing:
            return _numbered(stems())
        for k in growing:
            depths[k] += 1


def _in_one_folder_with_equal_names(candidates: Sequence[_Candidate]) -> set[int]:
    return set(_clashing("/".join((*c.parts[:-1], Path(c.parts[-1]).stem)) for c in candidates))


def _clashing(stems: Iterable[str]) -> list[int]:
    folded = [stem.casefold() for stem in stems]
    counts = Counter(folded)
    return [k for k, stem in enumerate(folded) if counts[stem] > 1]


def _numbered(stems: list[str]) -> list[str]:
    """Number what no path tells apart: `x_jpg` beside `x.jpg` and `x.png`, or `A` beside `a`."""
    taken = Counter(stem.casefold() for stem in stems)
    result = []
    seen: set[str] = set()
    for stem in stems:
        unique, number = stem, 2
        while unique.casefold() in seen or (unique != stem and taken[unique.casefold()]):
            unique, number = f"{stem}_{number}", number + 1
        seen.add(unique.casefold())
        result.append(unique)
    return result
