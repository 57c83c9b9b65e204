"""Writes the photos of the demo, which scikit-image carries, into the folder given."""

from __future__ import annotations

import sys
from pathlib import Path

import skimage.data
from PIL import Image


def main(folder: Path) -> None:
    """Writes astronaut, chelsea and coffee as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("astronaut", "chelsea", "coffee"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
