"""The loss in the form of the published scripts: the competitor of every loss benchmark, eager and compiled.

A test compares it with the formulas of ``dynamicseg.reference``. ``dynamicseg.published`` has the same numbers, and
does not leave its gradient to autograd.

Where the scripts do work for nothing, this is kinder to the competitor, eager and compiled:

- the single image is not cut out of its batch by an index, whose gradient would be one more map;
- a map that is channels last already is not copied;
- the zeros are one zero, expanded, in place of two maps: no slower in eager PyTorch, and compilers fold it away.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional

from dynamicseg.published import published_weight
from dynamicseg.weighting import Weighting, checked_mu

Loss: TypeAlias = Callable[[Tensor], Tensor]
"""Of a response map ``[B, C, H, W]``: the loss, a scalar."""


class PublishedLoss(nn.Module):
    """The loss of one image of at least 2x2 pixels, as a module.

    The map is copied to channels last, its labels are taken, the differences of neighbours are held against zeros with
    an L1 loss and the responses against their own labels with a cross-entropy; labels are counted as a Python number.

    Args:
        weighting, mu: see ``dynamicseg.weighting``.
    """

    def __init__(self, weighting: Weighting = "fsf", mu: float | None = None) -> None:
        super().__init__()
        self.weighting = weighting
        self.mu = checked_mu(weighting, mu)

    def forward(self, x: Tensor) -> Tensor:
        """Loss, a scalar in the dtype of ``x``, of the response map ``x`` ``[1, C, H, W]`` in either memory format."""
        _, channels, height, width = x.shape
        responses = x.permute(0, 2, 3, 1).contiguous().view(height * width, channels)
        labels = responses.argmax(dim=1)
        grid = responses.view(height, width, channels)
        continuity = _mean_size(grid[1:] - grid[:-1]) + _mean_size(grid[:, 1:] - grid[:, :-1])
        similarity = functional.cross_entropy(responses, labels)
        return similarity + published_weight(self.weighting, self.mu, len(torch.unique(labels))) * continuity


def _mean_size(differences: Tensor) -> Tensor:
    return functional.l1_loss(differences, differences.new_zeros(()).expand_as(differences))


def over_batch(loss_of_image: Loss) -> Loss:
    """Mean over the images of a batch, which the scripts take one at a time."""

    def loss(x: Tensor) -> Tensor:
        if len(x) == 1:
            return loss_of_image(x)
        return torch.stack([loss_of_image(image) for image in torch.split(x, 1)]).mean()

    return loss


@dataclass(frozen=True)
class Compiled:
    """The published form under ``torch.compile``, or why there is none."""

    loss: Loss | None
    reason: str | None = None
    """In one line, where there is none."""
    seconds: float | None = None
    """What the first calls took, compilation included."""
    graphs: int | None = None
    graph_breaks: int | None = None

    def as_dict(self) -> dict[str, bool | str | float | None]:
        """For a report: ``ok``, and all but the loss."""
        about = {name: getattr(self, name) for name in ("reason", "seconds", "graphs", "graph_breaks")}
        return {"ok": self.loss is not None, **about}


def compiled_loss(maps: Sequence[Tensor]) -> Compiled:
    """The published form under ``torch.compile``, for leaves like ``maps``.

    It runs on each map, without gradient and with, so that nothing is left to compile.
    """
    start = time.perf_counter()
    torch.compiler.reset()
    counters.clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what the compiler itself uses
            loss = over_batch(torch.compile(PublishedLoss()))
            for x in maps:
                with torch.no_grad():
                    loss(x)
                torch.autograd.grad(loss(x), x)
    except Exception as error:  # compilers fail with every type; a comparison goes on without one
        return Compiled(None, in_one_line(error))
    graphs = counters["stats"]["unique_graphs"]
    if not graphs:
        return Compiled(None, "torch.compile compiled nothing: it is switched off")
    breaks = sum(counters["graph_break"].values())
    return Compiled(loss, None, time.perf_counter() - start, graphs, breaks)


def in_one_line(error: Exception) -> str:
    """Its message up to the first line that does not announce another one; ``torch.compile`` adds many more."""
    text = f"{type(error).__name__}:"
    for line in filter(None, map(str.strip, str(error).splitlines())):
        text += f" {line}"
        if not line.endswith(":"):
            break
    return text


LossAndGrad: TypeAlias = tuple[float, Tensor]

LOSS_TOLERANCE = 1e-4
"""How far a loss may be from the published form in float32, relative to it."""
COSINE_TOLERANCE = 1e-3
"""How far from 1 the cosine of the gradients may be."""
NORM_TOLERANCE = 1e-2
"""How far from 1 the ratio of the gradients' norms may be; bfloat16 rounds a number by up to 0.2 %."""


def loss_and_grad(loss: Loss, x: Tensor) -> LossAndGrad:
    """The loss of the leaf ``x`` and its gradient, ``[B, C, H, W]``, through autograd; ``x.grad`` stays as it is."""
    value = loss(x)
    return float(value.detach()), torch.autograd.grad(value, x)[0]


def agreement(x: Tensor, competitors: Mapping[str, Callable[[Tensor], LossAndGrad]]) -> dict[str, dict[str, float]]:
    """How far each competitor is from the published form in float32, on the leaf ``x``.

    By competitor: ``loss_difference``, relative to that loss; ``gradient_cosine``; ``gradient_norm_ratio``.
    """
    loss, grad_x = loss_and_grad(over_batch(PublishedLoss()), x.detach().float().requires_grad_())
    truth = grad_x.double().flatten()
    differences = {}
    for name, competitor in competitors.items():
        found_loss, found_grad_x = competitor(x)
        found = found_grad_x.double().flatten()
        differences[name] = {
            "loss_difference": abs(found_loss - loss) / abs(loss),
            "gradient_cosine": float(found @ truth / (found.norm() * truth.norm())),
            "gradient_norm_ratio": float(found.norm() / truth.norm()),
        }
    return differences


def agrees(difference: Mapping[str, float]) -> bool:
    """Whether one competitor's entry of ``agreement`` is within the tolerances."""
    return (
        difference["loss_difference"] <= LOSS_TOLERANCE
        and abs(difference["gradient_cosine"] - 1) <= COSINE_TOLERANCE
        and abs(difference["gradient_norm_ratio"] - 1) <= NORM_TOLERANCE
    )
