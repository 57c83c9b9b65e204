"""Calls every op in each dtype and memory format, with every option, and prints a digest of what came out.

``tests/gpu_check.py`` runs it under compute-sanitizer, and twice to see whether two runs give the same bits.

    python tests/gpu_ops.py [--device cpu|cuda] [--large] [--shapes N] [--times N]

Needs nothing but torch. The last line is a JSON: ``backend``, ``cases``, ``digest``, and ``unequal``, the cases that
gave other bits when they were called again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from dynamicseg import ops
from dynamicseg.ops import _cuda, _runtime

SMALL = ((2, 5, 7, 9), (1, 100, 13, 17), (1, 129, 3, 37), (3, 2, 1, 11))
LARGE = ((1, 100, 321, 481), (3, 100, 160, 241))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FORMATS = (torch.contiguous_format, torch.channels_last)

_LARGE = 1 << 18  # numbers of 16 bits; fewer go to the host as they are

Results = dict[str, Tensor]


def response_map(shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format) -> Tensor:
    """Random logits, many of them equal."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return torch.where(x > 1, x.round(), 3 * x).to(dtype).contiguous(memory_format=memory_format)


Options = dict[str, Tensor | int | str]


def options(shape: tuple[int, ...], device: str) -> Iterator[tuple[str, Options]]:
    """Nothing, a mask, superpixels, both, the optional terms, all of that."""
    batch, channels, height, width = shape
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(batch, height, width, generator=generator) > 0.3
    labels = torch.randint(-channels, channels, (2, batch, height, width), generator=generator)
    rows, columns = torch.arange(height)[:, None] // 3, torch.arange(width) // 4
    numbers = (rows * (int(columns.max()) + 1) + columns).expand(batch, -1, -1).contiguous()
    with_mask: Options = {"mask": mask.to(device)}
    with_superpixels: Options = {
        "superpixels": numbers.to(device),
        "superpixel_count": int(numbers.max()) + 1,
    }
    scribbles, guide = labels.clamp(min=-1).to(device)
    with_terms: Options = {"continuity": "huber", "diagonals": True, "scribbles": scribbles, "guide": guide}
    yield "", {}
    yield " mask", with_mask
    yield " superpixels", with_superpixels
    yield " mask superpixels", with_mask | with_superpixels
    yield " scribbles guide", {"scribbles": scribbles, "guide": guide}
    yield " all", with_mask | with_superpixels | with_terms


def cases(x: Tensor) -> Iterator[tuple[str, Callable[[], Results]]]:
    """Every op on the map ``x``, by name."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    scale = torch.linspace(0.5, 1.5, x.shape[1], device=x.device, dtype=wide)

    def autograd(given: Options) -> Results:
        leaf = x.detach().requires_grad_()
        output = ops.dynamic_loss(leaf, **given)  # type: ignore[arg-type]
        output.loss.sum().backward()
        assert leaf.grad is not None
        return {**output._asdict(), "loss": output.loss.detach(), "grad_x": leaf.grad}

    def one_call(given: Options, cooperative: bool) -> Results:
        with _cuda.cooperative_launches(cooperative):
            output, grad_x = ops.dynamic_loss_and_grad(x, **given)  # type: ignore[arg-type]
        return {**output._asdict(), "grad_x": grad_x}

    def head(given: Options) -> Results:
        output, grads = ops.batch_norm_dynamic_loss_and_grad(x, scale, scale - 1, **given)  # type: ignore[arg-type]
        return {**output._asdict(), **grads._asdict()}

    def norm(relu: bool) -> Results:
        leaves = [leaf.detach().requires_grad_() for leaf in (x, scale, scale - 1)]
        y = ops.relu_batch_norm(*leaves, relu=relu)
        y.backward(x)
        grads = {str(number): leaf.grad for number, leaf in enumerate(leaves) if leaf.grad is not None}
        return {"y": y.detach(), **grads}

    for name, given in options(tuple(x.shape), x.device.type):
        yield f"dynamic_loss{name}", partial(autograd, given)
        yield f"dynamic_loss_and_grad{name}", partial(one_call, given, False)
        yield f"dynamic_loss_and_grad cooperative{name}", partial(one_call, given, True)
        yield f"batch_norm_dynamic_loss_and_grad{name}", partial(head, given)
    yield "relu_batch_norm", partial(norm, True)
    yield "batch_norm", partial(norm, False)


def digest(results: Results) -> str:
    """Of the bits of all results, by name."""
    found = hashlib.sha256()
    for name, value in sorted(results.items()):
        bits = value.contiguous().flatten().view(torch.int16)
        if bits.numel() > _LARGE:  # where it lies: wrapping sums of integers are the same in any order
            places = torch.arange(bits.numel(), device=bits.device)
            bits = torch.stack([(bits * (places * odd + 1)).sum() for odd in (0x9E3779B1, 0x85EBCA77)])
        found.update(name.encode() + bits.cpu().numpy().tobytes())
    return found.hexdigest()


def main() -> None:
    """Runs all cases."""
    parser = argparse.ArgumentParser(description="Call every op once, and print a digest of the results.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--large", action="store_true", help="on maps of photos")
    parser.add_argument("--times", type=int, default=1, help="how often each case is called")
    parser.add_argument("--shapes", type=int, help="only so many shapes")
    arguments = parser.parse_args()
    backend = _runtime.why(torch.device(arguments.device))
    if arguments.device == "cuda" and _runtime.backend_for(torch.device("cuda")) != "cuda":
        raise SystemExit(f"the CUDA kernels cannot be called: {backend}")
    of_all, count, unequal = hashlib.sha256(), 0, []
    dtypes = DTYPES if arguments.device == "cuda" else DTYPES[:3]
    for shape in (LARGE if arguments.large else SMALL)[: arguments.shapes]:
        for dtype in dtypes:
            for memory_format in FORMATS:
                x = response_map(shape, dtype, memory_format).to(arguments.device)
                for name, case in cases(x):
                    digests = {digest(case()) for _ in range(arguments.times)}
                    count += 1
                    of_all.update("".join(sorted(digests)).encode())
                    if len(digests) > 1:
                        unequal.append(f"{name} of {list(shape)} {dtype} {memory_format}")
    print(json.dumps({"backend": backend, "cases": count, "digest": of_all.hexdigest(), "unequal": unequal}))


if __name__ == "__main__":
    main()
