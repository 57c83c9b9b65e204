"""Damages a model file in many ways and loads each; a process of its own, for it may not survive.

``python fuzz_models.py FILE FIRST LAST``: with the seeds FIRST to LAST - 1. Prints how many were refused and how many
could still be used; whatever else happens ends the process with the seed.
"""

from __future__ import annotations

import random
import resource
import sys
from pathlib import Path

import numpy as np

from dynamicseg.predict import load

_MEMORY = 4 << 30
_IMAGE = np.zeros((9, 11, 3), np.uint8)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One to three changes: bytes replaced, taken out, put in or repeated, or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data))
        length = rng.choice([1, 1, 1, 2, 8, 64])
        kind = rng.randrange(6)
        if kind <= 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[rng.randrange(len(data)) :][:length] or b"\xff"
        else:
            data = data[: max(at, 1)]
    return bytes(data)


def main(file: Path, first: int, last: int) -> None:
    """See the top of this file."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    content = file.read_bytes()
    refused = used = 0
    target = file.with_name(f"damaged{file.suffix}")
    for seed in range(first, last):
        target.write_bytes(damaged(content, random.Random(seed)))
        try:
            load(target, threads=1).predict(_IMAGE)
            used += 1
        except (ValueError, MemoryError) as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                sys.exit(f"seed {seed}: not one line: {error!r}")
            refused += 1
        except BaseException as error:
            sys.exit(f"seed {seed}: {type(error).__name__}: {error}")
    print(refused, used)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
