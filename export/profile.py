"""Shapes of images that an engine takes."""

from __future__ import annotations

from dataclasses import dataclass

from dynamicseg.export.formats import ExportOptions

Shape = tuple[int, int, int, int]

# The smallest image is one that others can be padded to at little cost. The largest decides how much memory the GPU
# sets aside; larger images are predicted in tiles.
_MIN_SIZE, _SIZE, _MAX_SIZE = (32, 32), (480, 640), (1088, 1920)


@dataclass(frozen=True)
class Profile:
    """Shapes ``[batch, height, width, bands]`` that an engine takes, and the one that it is tuned for."""

    min: Shape
    opt: Shape
    max: Shape

    def as_json(self) -> dict[str, list[int]]:
        """Lists by name."""
        return {"min": list(self.min), "opt": list(self.opt), "max": list(self.max)}


def profile_of(options: ExportOptions, bands: int) -> Profile:
    """The shapes that the options ask for.

    Raises:
        ValueError: the sizes are not in order.
    """
    batch = options.batch or 1
    if not options.dynamic:
        assert options.size is not None
        shape = (batch, *options.size, bands)
        return Profile(shape, shape, shape)
    size = options.size or _SIZE
    smallest = options.min_size or (min(_MIN_SIZE[0], size[0]), min(_MIN_SIZE[1], size[1]))
    largest = options.max_size or (max(_MAX_SIZE[0], size[0]), max(_MAX_SIZE[1], size[1]))
    if not all(low <= at <= high for low, at, high in zip(smallest, size, largest, strict=True)):
        names = "; ".join(f"{a}x{b}" for a, b in (smallest, size, largest))
        raise ValueError(f"min-size, size and max-size want to be in this order, not {names}")
    return Profile((1, *smallest, bands), (1, *size, bands), (batch, *largest, bands))
