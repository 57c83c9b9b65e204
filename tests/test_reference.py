"""The reference against sums done by hand, and against PyTorch's own cross-entropy and L1 loss."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dynamicseg import reference
from dynamicseg.weighting import DEFAULT_MU, WEIGHTINGS, Weighting

LN2, LN3 = log(2), log(3)

# Two channels, two by two pixels. The pixels, and what each adds to the similarity:
#   (0, 0)    tie, label 0   ln 2      |  (ln 3, 0)  label 0         ln 4/3
#   (0, ln 3) label 1        ln 4/3    |  (0, 0)     tie, label 0    ln 2
# Vertical differences: 0, ln 3 (left), ln 3, 0 (right). Horizontal: ln 3, 0 (top), 0, ln 3
# (bottom).
SIMILARITY = (LN2 + log(4 / 3)) / 2
CONTINUITY = LN3 / 2 + LN3 / 2
LABELS = [[0, 0], [1, 0]]
WEIGHT_OF_TWO_LABELS: dict[Weighting, float] = {"fsf": 2 / 15, "scf": 25.0, "fixed": 1.0}


def by_hand() -> Tensor:
    return torch.tensor([[[[0, LN3], [0, 0]], [[0, 0], [LN3, 0]]]], dtype=torch.float64)


class TestByHand:
    @pytest.mark.parametrize("weighting", WEIGHTINGS)
    def test_two_by_two(self, weighting: Weighting) -> None:
        output = reference.dynamic_loss(by_hand(), weighting=weighting)
        weight = WEIGHT_OF_TWO_LABELS[weighting]
        assert output.labels.tolist() == [LABELS]
        assert output.label_counts.tolist() == [2]
        assert output.weight.item() == pytest.approx(weight)
        assert output.similarity.item() == pytest.approx(SIMILARITY)
        assert output.continuity.item() == pytest.approx(CONTINUITY)
        assert output.loss.item() == pytest.approx(SIMILARITY + weight * CONTINUITY)

    @pytest.mark.parametrize("weighting", WEIGHTINGS)
    def test_gradient_of_two_by_two(self, weighting: Weighting) -> None:
        x = by_hand().requires_grad_()
        (grad_x,) = torch.autograd.grad(reference.dynamic_loss(x, weighting=weighting).loss.sum(), x)
        # (softmax - one-hot) / 4 pixels, and the signs of two differences, each one of 4 elements.
        w = WEIGHT_OF_TWO_LABELS[weighting] / 4
        channel_0 = [[-1 / 8 - w, -1 / 16 + 2 * w], [1 / 16, -1 / 8 - w]]
        channel_1 = [[1 / 8 - w, 1 / 16], [-1 / 16 + 2 * w, 1 / 8 - w]]
        expected = torch.tensor([[channel_0, channel_1]], dtype=torch.float64)
        torch.testing.assert_close(grad_x, expected)

    def test_mask(self) -> None:
        mask = torch.tensor([[[True, False], [True, True]]])
        x = by_hand()
        x[0, :, 0, 1] = torch.nan
        output = reference.dynamic_loss(x, weighting="fixed", mu=2, mask=mask)
        similarity = (2 * LN2 + log(4 / 3)) / 3
        continuity = (0 + LN3) / 2 + (0 + LN3) / 2
        assert output.labels.tolist() == [[[0, -1], [1, 0]]]
        assert output.label_counts.tolist() == [2]
        assert output.similarity.item() == pytest.approx(similarity)
        assert output.continuity.item() == pytest.approx(continuity)
        assert output.loss.item() == pytest.approx(similarity + 2 * continuity)

    @pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
    def test_what_is_masked_has_gradient_0_and_no_influence(self, poison: float) -> None:
        mask = torch.tensor([[[True, False], [True, True]]])
        gradients: list[Tensor] = []
        for masked_value in (0.0, poison):
            x = by_hand()
            x[0, :, 0, 1] = masked_value
            x.requires_grad_()
            gradients += torch.autograd.grad(reference.dynamic_loss(x, mask=mask).loss.sum(), x)
        assert gradients[1][0, :, 0, 1].tolist() == [0, 0]
        assert torch.equal(gradients[0], gradients[1])

    def test_masked_label_is_not_counted(self) -> None:
        mask = torch.tensor([[[True, True], [False, True]]])
        output = reference.dynamic_loss(by_hand(), weighting="fsf", mask=mask)
        assert output.label_counts.tolist() == [1]
        assert output.weight.item() == pytest.approx(1 / 15)

    def test_nothing_but_masked_pixels(self) -> None:
        mask = torch.zeros(1, 2, 2, dtype=torch.bool)
        output = reference.dynamic_loss(by_hand(), weighting="scf", mask=mask)
        assert output.labels.tolist() == [[[-1, -1], [-1, -1]]]
        assert output.label_counts.tolist() == [0]
        assert output.loss.tolist() == [0]

    def test_one_pixel_has_no_continuity(self) -> None:
        output = reference.dynamic_loss(torch.tensor([0.0, LN3, 0.0]).reshape(1, 3, 1, 1))
        assert output.labels.tolist() == [[[1]]]
        assert output.similarity.item() == pytest.approx(log(5 / 3))
        assert output.continuity.tolist() == [0]

    @pytest.mark.parametrize("shape", [(1, 2, 1, 3), (1, 2, 3, 1)])
    def test_one_line_has_one_continuity(self, shape: tuple[int, ...]) -> None:
        x = torch.tensor([[0.0, 4.0, 1.0], [2.0, 2.0, 2.0]]).reshape(shape)
        output = reference.dynamic_loss(x)
        assert output.labels.flatten().tolist() == [1, 0, 1]
        assert output.continuity.item() == pytest.approx((4 + 3 + 0 + 0) / 4)

    def test_tie_goes_to_the_lowest_label(self) -> None:
        x = torch.tensor([1.0, 5.0, 5.0, 5.0]).reshape(1, 4, 1, 1)
        assert reference.dynamic_loss(x).labels.tolist() == [[[1]]]
        assert reference.dynamic_loss(torch.zeros(1, 9, 2, 2)).label_counts.tolist() == [1]

    def test_superpixels(self) -> None:
        # Labels 0 0 / 1 0. Left column: one of each, so the lower; right column: both 0.
        columns = torch.tensor([[[0, 1], [0, 1]]])
        x = by_hand().requires_grad_()
        output = reference.dynamic_loss(x, weighting="fsf", superpixels=columns)
        assert output.labels.tolist() == [[[0, 0], [0, 0]]]
        assert output.label_counts.tolist() == [1]
        assert output.weight.item() == pytest.approx(1 / 15)
        # The pixel (0, ln 3) has label 0 now: ln 4 - 0.
        assert output.similarity.item() == pytest.approx((2 * LN2 + log(4 / 3) + log(4)) / 4)
        assert output.continuity.item() == pytest.approx(CONTINUITY)
        (grad_x,) = torch.autograd.grad(output.loss.sum(), x)
        w = 1 / 15 / 4
        assert grad_x[0, :, 1, 0].tolist() == pytest.approx([-3 / 16, 3 / 16 + 2 * w])

    def test_the_most_frequent_label_of_a_superpixel_under_a_mask(self) -> None:
        x = torch.zeros(1, 4, 1, 6)
        for column, label in enumerate([3, 3, 1, 2, 2, 0]):
            x[0, label, 0, column] = 1
        superpixels = torch.tensor([[[0, 0, 0, 0, 0, 1]]])
        mask = torch.tensor([[[True, True, True, True, False, False]]])
        unmasked = reference.dynamic_loss(x, superpixels=superpixels)
        assert unmasked.labels.tolist() == [[[2, 2, 2, 2, 2, 0]]]
        assert unmasked.label_counts.tolist() == [2]
        masked = reference.dynamic_loss(x, superpixels=superpixels, mask=mask)
        assert masked.labels.tolist() == [[[3, 3, 3, 3, -1, -1]]]
        assert masked.label_counts.tolist() == [1]

    def test_images_of_a_batch_have_their_own_weights(self) -> None:
        batch = torch.cat([by_hand(), torch.zeros(1, 2, 2, 2, dtype=torch.float64)])
        output = reference.dynamic_loss(batch, weighting="fsf")
        assert output.label_counts.tolist() == [2, 1]
        assert output.weight.tolist() == pytest.approx([2 / 15, 1 / 15])
        assert output.loss.tolist() == pytest.approx([SIMILARITY + 2 / 15 * CONTINUITY, LN2])


class TestWeight:
    def test_published_constants(self) -> None:
        assert DEFAULT_MU == {"fsf": 15, "scf": 50, "fixed": 1}

    @pytest.mark.parametrize(
        ("weighting", "expected"),
        [("fsf", [0.25, 0.25, 2.5]), ("scf", [4, 4, 0.4]), ("fixed", [4, 4, 4])],
    )
    def test_weight(self, weighting: Weighting, expected: list[float]) -> None:
        weight = reference.dynamic_weight(weighting, 4, torch.tensor([0, 1, 10]))
        assert weight.tolist() == pytest.approx(expected)


def straightforward_loss(x: Tensor, weighting: Weighting, mu: float) -> Tensor:
    """One image after the other, with PyTorch's losses, the way the published scripts do it."""
    losses = []
    for image in x:
        target = image.argmax(dim=0)
        similarity = functional.cross_entropy(image.flatten(1).T, target.flatten())
        zero = torch.zeros((), dtype=x.dtype)
        vertical = functional.l1_loss(image[:, 1:], image[:, :-1]) if x.shape[2] > 1 else zero
        horizontal = functional.l1_loss(image[:, :, 1:], image[:, :, :-1]) if x.shape[3] > 1 else zero
        count = len(set(target.flatten().tolist()))
        weight = {"fsf": count / mu, "scf": mu / count, "fixed": mu}[weighting]
        losses.append(similarity + weight * (vertical + horizontal))
    return torch.stack(losses)


class TestAgainstPyTorch:
    @pytest.mark.parametrize("weighting", WEIGHTINGS)
    @pytest.mark.parametrize("shape", [(2, 5, 6, 7), (1, 100, 3, 4), (1, 3, 1, 8), (3, 2, 9, 1)])
    def test_loss_and_gradient(self, weighting: Weighting, shape: tuple[int, ...]) -> None:
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        # Rounded, so that ties and equal neighbours occur.
        rounded = torch.round(x * 2) / 2
        loss = reference.dynamic_loss(rounded, weighting=weighting, mu=7).loss
        expected = straightforward_loss(rounded, weighting, 7)
        torch.testing.assert_close(loss, expected)

        values = rounded.detach().requires_grad_()
        upstream = torch.arange(1, shape[0] + 1, dtype=torch.float64)
        (grad,) = torch.autograd.grad(reference.dynamic_loss(values, weighting=weighting, mu=7).loss, values, upstream)
        (grad_expected,) = torch.autograd.grad(straightforward_loss(values, weighting, 7), values, upstream)
        torch.testing.assert_close(grad, grad_expected)

    def test_a_mask_of_whole_rows_is_a_crop(self) -> None:
        x = torch.randn(1, 4, 6, 5, dtype=torch.float64)
        mask = torch.ones(1, 6, 5, dtype=torch.bool)
        mask[:, 4:] = False
        masked = reference.dynamic_loss(x, mask=mask)
        crop = reference.dynamic_loss(x[:, :, :4])
        torch.testing.assert_close(masked.loss, crop.loss)
        assert torch.equal(masked.labels[:, :4], crop.labels)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_summed_in_float32(self, dtype: torch.dtype) -> None:
        x = torch.randn(1, 50, 40, 40).to(dtype)
        output = reference.dynamic_loss(x)
        assert output.loss.dtype == torch.float32
        torch.testing.assert_close(output.loss, reference.dynamic_loss(x.float()).loss)
