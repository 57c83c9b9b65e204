"""The optional terms of the reference against sums done by hand, and against PyTorch's own losses."""

from __future__ import annotations

from math import log

import pytest
import torch
from dynamic_loss_cases import some_labels
from torch import Tensor
from torch.nn import functional

from dynamicseg import reference
from dynamicseg.terms import SCRIBBLE_WEIGHT, Continuity
from dynamicseg.weighting import WEIGHTINGS, Weighting

LN2, LN3 = log(2), log(3)


def by_hand() -> Tensor:
    """Two channels, two by two pixels: (0, 0), (ln 3, 0) above (0, ln 3), (0, 0)."""
    return torch.tensor([[[[0, LN3], [0, 0]], [[0, 0], [LN3, 0]]]], dtype=torch.float64)


class TestByHand:
    def test_huber(self) -> None:
        output = reference.dynamic_loss(by_hand(), continuity="huber")
        # Half of the differences are 0, the others ln 3, which is above 1.
        assert output.continuity.item() == pytest.approx(LN3 - 0.5)
        small = reference.dynamic_loss(by_hand() / 4, continuity="huber")
        assert small.continuity.item() == pytest.approx((LN3 / 4) ** 2 / 2)

    @pytest.mark.parametrize(("difference", "slope"), [(0.0, 0.0), (0.25, 0.25), (-0.75, -0.75), (3.0, 1), (-1.5, -1)])
    def test_the_derivative_of_huber(self, difference: float, slope: float) -> None:
        x = torch.tensor([[[[0.0, difference]]]], dtype=torch.float64, requires_grad=True)
        output = reference.dynamic_loss(x, weighting="fixed", continuity="huber")
        (grad_x,) = torch.autograd.grad(output.loss.sum(), x)
        assert grad_x.flatten().tolist() == pytest.approx([-slope, slope])  # of one channel similarity is 0

    @pytest.mark.parametrize(("continuity", "expected"), [("l1", LN3), ("huber", LN3 - 0.5)])
    def test_diagonals(self, continuity: Continuity, expected: float) -> None:
        # (0, 0) and (0, 0) are equal; of (ln 3, 0) and (0, ln 3) both channels differ by ln 3.
        straight = reference.dynamic_loss(by_hand(), continuity=continuity).continuity.item()
        output = reference.dynamic_loss(by_hand(), continuity=continuity, diagonals=True)
        assert output.continuity.item() == pytest.approx(straight + 0 + expected)

    def test_a_diagonal_counts_only_where_both_ends_are_valid(self) -> None:
        mask = torch.tensor([[[True, True], [False, True]]])
        output = reference.dynamic_loss(by_hand(), diagonals=True, mask=mask)
        # Left are (0, 0) beside (ln 3, 0), that above (0, 0), and the diagonal of equals.
        assert output.continuity.item() == pytest.approx(LN3 / 2 + LN3 / 2)

    def test_scribbles(self) -> None:
        scribbles = torch.tensor([[[-1, 1], [-1, -1]]])
        output = reference.dynamic_loss(by_hand(), scribbles=scribbles)
        # Of (ln 3, 0), 1 has probability 1/4. The similarity of the others is ln 2, ln 4/3 and ln 2.
        assert output.scribble.item() == pytest.approx(log(4))
        assert output.similarity.item() == pytest.approx((2 * LN2 + log(4 / 3)) / 3)
        loss = output.similarity + output.weight * output.continuity + 0.5 * output.scribble
        assert output.loss.item() == pytest.approx(loss.item())
        assert output.labels.tolist() == [[[0, 0], [1, 0]]]
        assert output.label_counts.tolist() == [2]

    def test_scribbles_everywhere_leave_no_similarity(self) -> None:
        output = reference.dynamic_loss(by_hand(), scribbles=torch.zeros(1, 2, 2, dtype=torch.int64))
        assert output.similarity.item() == 0
        assert output.scribble.item() == pytest.approx((2 * LN2 + log(4 / 3) + log(4)) / 4)

    def test_guide(self) -> None:
        guide = torch.tensor([[[0, 1], [-1, -1]]])
        for weight in (1.0, 0.25, torch.tensor(0.25), torch.tensor([3.0])):
            output = reference.dynamic_loss(by_hand(), guide=guide, guide_weight=weight)
            assert output.guide.item() == pytest.approx((LN2 + log(4)) / 2)
            plain = reference.dynamic_loss(by_hand())
            assert output.similarity.item() == plain.similarity.item()
            assert output.loss.item() == pytest.approx(plain.loss.item() + float(weight) * output.guide.item())

    @pytest.mark.parametrize("name", ["scribbles", "guide"])
    def test_maps_without_a_valid_label_change_nothing(self, name: str) -> None:
        mask = torch.tensor([[[True, False], [True, True]]])
        labels = torch.tensor([[[-1, 1], [2, -7]]])  # masked, or no label of the map
        plain = reference.dynamic_loss(by_hand(), mask=mask)
        output = reference.dynamic_loss(by_hand(), mask=mask, **{name: labels})  # type: ignore[arg-type]
        for part, same in zip(output, plain, strict=True):
            assert torch.equal(part, same)

    @pytest.mark.parametrize("weighting", WEIGHTINGS)
    def test_label_floor(self, weighting: Weighting) -> None:
        of_five = {"fsf": 5 / 15, "scf": 10.0, "fixed": 1.0}[weighting]
        output = reference.dynamic_loss(by_hand(), weighting=weighting, label_floor=5)
        assert output.weight.item() == pytest.approx(of_five)
        assert output.label_counts.tolist() == [2]
        above = reference.dynamic_loss(by_hand(), weighting=weighting, label_floor=2)
        assert torch.equal(above.loss, reference.dynamic_loss(by_hand(), weighting=weighting).loss)


def straightforward_loss(x: Tensor, scribbles: Tensor, guide: Tensor, guide_weight: Tensor, label_floor: int) -> Tensor:
    """One image after the other, with PyTorch's losses."""
    losses = []
    for image, drawn, of_guide, weight in zip(x, scribbles, guide, guide_weight, strict=True):
        labels = image.argmax(dim=0)
        pixels = image.flatten(1).T
        own = labels.where(drawn < 0, torch.tensor(-1))
        similarity, scribble, guided = (
            functional.cross_entropy(pixels, target.flatten(), ignore_index=-1) for target in (own, drawn, of_guide)
        )
        continuity = sum(
            functional.smooth_l1_loss(a, b)
            for a, b in [
                (image[:, 1:], image[:, :-1]),
                (image[:, :, 1:], image[:, :, :-1]),
                (image[:, 1:, 1:], image[:, :-1, :-1]),
                (image[:, 1:, :-1], image[:, :-1, 1:]),
            ]
        )
        count = max(len(labels.unique()), label_floor)
        losses.append(similarity + count / 15 * continuity + SCRIBBLE_WEIGHT * scribble + weight * guided)
    return torch.stack(losses)


@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (3, 2, 9, 4)])
def test_all_terms_are_those_of_pytorch(shape: tuple[int, ...]) -> None:
    scribbles, guide = some_labels(shape, 0.3), some_labels(shape, 0.6, seed=1)
    guide_weight = torch.linspace(0, 2, shape[0], dtype=torch.float64)
    # Rounded, so that ties and equal neighbours occur.
    x = (torch.round(torch.randn(shape, dtype=torch.float64) * 2) / 2).requires_grad_()
    output = reference.dynamic_loss(
        x,
        continuity="huber",
        diagonals=True,
        label_floor=4,
        scribbles=scribbles,
        guide=guide,
        guide_weight=guide_weight,
    )
    expected = straightforward_loss(x, scribbles, guide, guide_weight, label_floor=4)
    torch.testing.assert_close(output.loss, expected)
    upstream = torch.arange(1, shape[0] + 1, dtype=torch.float64)
    (grad_x,) = torch.autograd.grad(output.loss, x, upstream)
    torch.testing.assert_close(grad_x, torch.autograd.grad(expected, x, upstream)[0])


def test_a_mask_of_whole_rows_is_a_crop() -> None:
    x = torch.randn(1, 4, 6, 5, dtype=torch.float64)
    mask = torch.ones(1, 6, 5, dtype=torch.bool)
    mask[:, 4:] = False
    scribbles, guide = some_labels(x.shape, 0.4), some_labels(x.shape, 0.4, seed=1)
    masked = reference.dynamic_loss(x, mask=mask, diagonals=True, scribbles=scribbles, guide=guide)
    crop = reference.dynamic_loss(x[:, :, :4], diagonals=True, scribbles=scribbles[:, :4], guide=guide[:, :4])
    torch.testing.assert_close(masked.loss, crop.loss)


def test_an_image_without_a_valid_pixel_has_loss_0() -> None:
    x = torch.randn(1, 4, 3, 5)
    labels, mask = some_labels(x.shape, 1), torch.zeros(1, 3, 5, dtype=torch.bool)
    output = reference.dynamic_loss(x, mask=mask, diagonals=True, scribbles=labels, guide=labels)
    assert output.loss.item() == output.scribble.item() == output.guide.item() == 0
