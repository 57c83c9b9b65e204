"""From ``--scribbles``, ``--guide`` and ``--mask`` to the file that goes with each input."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dynamicseg._files import one_line
from dynamicseg.evaluate.label_files import find_label_maps, names
from dynamicseg.guidance import LabelFile
from dynamicseg.inputs import FoundInputs, InputImage

# What a file of this kind may have behind the stem of its image, if they lie in one folder.
_ENDINGS = {
    "scribbles": ("_scribbles", "_scribble"),
    "guide": ("_guide",),
    "mask": ("_mask",),
}


@dataclass(frozen=True)
class GuidanceFiles:
    """Which files go with which input.

    Attributes:
        of_stem: by the stem of an input, its files by kind.
        notes: a line for each kind that some inputs lack.
    """

    of_stem: Mapping[str, Mapping[str, LabelFile]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def of(self, image: InputImage) -> Mapping[str, LabelFile]:
        """``scribbles``, ``guide`` and ``mask`` of an input, as ``Segmenter.segment`` takes them."""
        return self.of_stem.get(image.stem, {})


def find_guidance(found: FoundInputs, folders: Mapping[str, LabelFile]) -> tuple[GuidanceFiles, FoundInputs]:
    """The files of each input; and the inputs without those that turn out to be such files.

    In a folder, a file goes with the input of its stem, subfolders included: ``a/x.png`` with ``a/x``; ``x_scribble``,
    ``x_scribbles``, ``x_guide`` and ``x_mask`` go with ``x``, too, before ``x`` itself. A file that is named goes with
    every input.

    Args:
        found: all inputs.
        folders: for each kind its file or folder, with the number that stands for none in all of them.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: in a folder no file goes with any input; one line.
    """
    of_stem: dict[str, dict[str, LabelFile]] = {image.stem: {} for image in found.images}
    for kind, folder in folders.items():
        if folder.path.is_dir():
            paths = _in_folder(kind, folder.path, found.images)
        elif folder.path.exists():
            paths = {image.stem: folder.path for image in found.images}
        else:
            raise FileNotFoundError(one_line(folder.path, "no such file or folder"))
        for stem, path in paths.items():
            of_stem[stem][kind] = replace(folder, path=path)
    used = {_identity(file.path) for files in of_stem.values() for file in files.values()}
    images = tuple(image for image in found.images if _identity(image.path) not in used)
    notes = []
    for kind, folder in folders.items():
        without = [image.stem for image in images if kind not in of_stem[image.stem]]
        if without:
            notes.append(one_line(folder.path, f"no {kind} for {len(without)} of the inputs: {names(without)}"))
    return GuidanceFiles(of_stem, tuple(notes)), replace(found, images=images)


def _in_folder(kind: str, folder: Path, images: Sequence[InputImage]) -> dict[str, Path]:
    maps = find_label_maps(folder)
    taken = {_identity(image.path): image for image in images}
    paths = {}
    for image in images:
        stems = dict.fromkeys([image.stem, image.path.stem])
        for stem in [f"{stem}{ending}" for stem in stems for ending in (*_ENDINGS[kind], "")]:
            if stem in maps and taken.get(_identity(maps[stem])) != image:
                paths[image.stem] = maps[stem]
                break
    if images and not paths:
        first = images[0].stem
        text = f"holds no {kind} of any input: want a label image {first}.png or {first}{_ENDINGS[kind][-1]}.png"
        raise ValueError(one_line(folder, text))
    return paths


def _identity(path: Path) -> Path:
    return Path(os.path.realpath(path))
