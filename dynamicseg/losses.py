"""``DynamicLoss``: the loss as a module, for training loops of one's own."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dynamicseg import ops
from dynamicseg.reference import DynamicLossOutput
from dynamicseg.terms import Continuity, checked_continuity, checked_label_floor
from dynamicseg.weighting import Weighting, checked_mu


class DynamicLoss(nn.Module):
    """Similarity plus dynamically weighted continuity of a response map; needs no targets.

    >>> loss = DynamicLoss(weighting="fsf")
    >>> output = loss(torch.randn(1, 100, 64, 64, requires_grad=True))
    >>> output.loss.backward()

    Args:
        weighting: ``"fsf"`` (K / mu), ``"scf"`` (mu / K) or ``"fixed"`` (mu), with K the number of labels still alive.
        mu: constant of the weighting, > 0; by default the published one: 15, 50, 1.
        continuity: ``"l1"`` or ``"huber"``, which is smooth at 0, see ``terms.Continuity``.
        diagonals: whether diagonal neighbours count in the continuity as well.
        label_floor: K counts as this many labels at least, >= 1.
        reduction: ``"mean"`` makes ``loss`` the mean over the batch; ``"none"`` leaves ``[B]``.
    """

    def __init__(
        self,
        weighting: Weighting = "fsf",
        mu: float | None = None,
        *,
        continuity: Continuity = "l1",
        diagonals: bool = False,
        label_floor: int = 1,
        reduction: Literal["mean", "none"] = "mean",
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction {reduction!r}: choose mean or none")
        self.weighting: Weighting = weighting
        self.mu = checked_mu(weighting, mu)
        self.continuity: Continuity = checked_continuity(continuity)
        self.diagonals = diagonals
        self.label_floor = checked_label_floor(label_floor)
        self.reduction = reduction

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        superpixels: Tensor | None = None,
        superpixel_count: int | None = None,
        *,
        scribbles: Tensor | None = None,
        guide: Tensor | None = None,
        guide_weight: float | Tensor = 1.0,
    ) -> DynamicLossOutput:
        """The loss of ``x`` ``[B, C, H, W]``; all other arguments as in ``ops.dynamic_loss``, maps ``[B, H, W]``.

        Raises:
            TypeError, ValueError: as in ``ops.dynamic_loss``; also ValueError for the mean over a batch without images.
        """
        output = ops.dynamic_loss(
            x,
            weighting=self.weighting,
            mu=self.mu,
            mask=mask,
            superpixels=superpixels,
            superpixel_count=superpixel_count,
            continuity=self.continuity,
            diagonals=self.diagonals,
            label_floor=self.label_floor,
            scribbles=scribbles,
            guide=guide,
            guide_weight=guide_weight,
        )
        if self.reduction == "none":
            return output
        if x.shape[0] == 0:
            raise ValueError(
                f"x has shape {list(x.shape)}: there is no mean over a batch without images; pass at least one, or "
                "make the loss with reduction='none'"
            )
        return output._replace(loss=output.loss.mean())

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        optional = {"continuity": "l1", "diagonals": False, "label_floor": 1}
        changed = [
            f"{name}={getattr(self, name)!r}" for name, usual in optional.items() if getattr(self, name) != usual
        ]
        return ", ".join(
            [f"weighting={self.weighting!r}", f"mu={self.mu:g}", *changed, f"reduction={self.reduction!r}"]
        )
