"""Labels made consistent within superpixels: by the loss, on every kernel, and where superpixels come from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from dynamic_loss_cases import op_arguments
from gradients import Tolerance
from torch import Tensor

from dynamicseg import DynamicLoss, _native, reference
from dynamicseg.ops import dynamic_loss, dynamic_loss_and_grad
from dynamicseg.superpixels import felzenszwalb_superpixels, split_by_guide


@pytest.fixture(params=_native.available_instruction_sets(), autouse=True)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    before = _native.instruction_set()
    _native.set_instruction_set(request.param)
    yield
    _native.set_instruction_set(before)


def example(
    shape: tuple[int, int, int, int], dtype: torch.dtype, channels_last: bool, masked: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    batch, _, height, width = shape
    x = (torch.randn(shape) * 3).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    superpixels = torch.randint(0, max(1, height * width // 6), (batch, height, width))
    return x, superpixels, torch.rand(batch, height, width) > 0.3 if masked else None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(1, 100, 23, 31), (3, 5, 7, 11), (1, 129, 1, 40), (2, 2, 17, 1), (1, 3, 1, 1)])
def test_loss_labels_and_gradient_are_the_references(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    channels_last: bool,
    masked: bool,
    tolerances: dict[torch.dtype, Tolerance],
) -> None:
    x, superpixels, mask = example(shape, dtype, channels_last, masked)
    truth = x.double().clone().requires_grad_()
    expected = reference.dynamic_loss(truth, weighting="scf", mask=mask, superpixels=superpixels)
    expected.loss.mean().backward()
    assert truth.grad is not None

    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    through_autograd = dynamic_loss(leaf, weighting="scf", mask=mask, superpixels=superpixels)
    through_autograd.loss.mean().backward()
    in_one_call, grad_x = dynamic_loss_and_grad(x, weighting="scf", mask=mask, superpixels=superpixels)
    assert leaf.grad is not None
    for output, grad in ((through_autograd, leaf.grad), (in_one_call, grad_x)):
        assert torch.equal(output.labels, expected.labels)
        assert torch.equal(output.label_counts, expected.label_counts)
        for name in ("loss", "similarity", "continuity", "weight"):
            found, wanted = getattr(output, name).double(), getattr(expected, name)
            torch.testing.assert_close(found, wanted, rtol=10 * tolerances[dtype].statistic, atol=1e-6)
        error = (grad.double() - truth.grad).norm() / truth.grad.norm().clamp(min=1e-30)
        assert error <= max(tolerances[dtype].gradient, 1e-6 if dtype == torch.float32 else 0)


def test_the_most_frequent_label_wins_and_the_lowest_on_a_tie() -> None:
    # One row of five pixels; channel numbers of the greatest response: 2 1 1 | 2 0, two superpixels.
    own = torch.tensor([2, 1, 1, 2, 0])
    x = torch.nn.functional.one_hot(own, 3).float().T[None, :, None, :].contiguous() * 4
    superpixels = torch.tensor([[[0, 0, 0, 1, 1]]])
    output = dynamic_loss(x, weighting="fixed", superpixels=superpixels)
    assert output.labels.tolist() == [[[1, 1, 1, 0, 0]]]
    assert output.label_counts.tolist() == [2]
    # Masking one of the two votes for 1 makes a tie, which 1 still wins; masking both leaves 2.
    mask = torch.tensor([[[True, False, True, True, True]]])
    assert dynamic_loss(x, superpixels=superpixels, mask=mask).labels.tolist() == [[[1, -1, 1, 0, 0]]]
    mask = torch.tensor([[[True, False, False, True, True]]])
    assert dynamic_loss(x, superpixels=superpixels, mask=mask).labels.tolist() == [[[2, -1, -1, 0, 0]]]


def test_one_superpixel_a_pixel_changes_nothing() -> None:
    x = torch.randn(2, 7, 9, 13)
    superpixels = torch.arange(9 * 13).view(1, 9, 13).expand(2, 9, 13)
    plain, united = dynamic_loss(x), dynamic_loss(x, superpixels=superpixels)
    assert torch.equal(plain.labels, united.labels)
    torch.testing.assert_close(plain.loss, united.loss, rtol=1e-6, atol=0)


def test_results_are_the_same_bits_each_time() -> None:
    x, superpixels, _ = example((2, 50, 61, 67), torch.float32, True, False)
    first, second = (dynamic_loss_and_grad(x, superpixels=superpixels) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert torch.equal(first[1], second[1])


def test_gradcheck_and_opcheck() -> None:
    x, superpixels, mask = example((2, 4, 3, 5), torch.float64, False, True)
    loss = DynamicLoss("scf")
    assert torch.autograd.gradcheck(lambda leaf: loss(leaf, mask, superpixels).loss, (x.requires_grad_(),))
    arguments = (x, *op_arguments(x, mask=mask, superpixels=superpixels))
    torch.library.opcheck(torch.ops.dynamicseg.dynamic_loss, arguments)
    torch.library.opcheck(torch.ops.dynamicseg.dynamic_loss_and_grad, (x.detach(), *arguments[1:]))


@pytest.mark.parametrize(
    ("superpixels", "kind", "words"),
    [
        (torch.zeros(1, 4, 5), TypeError, "superpixels is torch.float32: pass a torch.int64 tensor"),
        (torch.zeros(1, 4, 4, dtype=torch.int64), ValueError, "superpixels has shape"),
        (torch.full((1, 4, 5), -1), ValueError, "numbered from -1 to -1"),
        (torch.full((1, 4, 5), 20), ValueError, "numbered from 20 to 20: number them from 0"),
    ],
)
def test_wrong_superpixels_are_refused(superpixels: Tensor, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        dynamic_loss(torch.zeros(1, 3, 4, 5), superpixels=superpixels)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_felzenszwalb_numbers_have_no_gaps_and_any_number_of_bands() -> None:
    values = np.zeros((30, 40, 12), np.float32)
    values[:, 20:] = 1
    numbers = felzenszwalb_superpixels(values, scale=40, sigma=0.8, min_size=20)
    assert numbers.dtype == np.int64
    assert numbers.shape == (30, 40)
    assert set(np.unique(numbers)) == set(range(numbers.max() + 1))
    assert numbers[0, 0] != numbers[0, -1]


def test_a_guide_cuts_superpixels_but_noise_does_not() -> None:
    superpixels = np.repeat(np.arange(4), 10)[None].repeat(12, axis=0)
    halves = (np.arange(12) >= 5).astype(int)[:, None].repeat(40, axis=1)
    cut = split_by_guide(superpixels, halves, min_size=20)
    assert sorted(np.unique(cut)) == list(range(8))
    for number in range(8):
        inside = cut == number
        assert len(np.unique(superpixels[inside])) == len(np.unique(halves[inside])) == 1
    noise = np.random.default_rng(0).integers(0, 20, (12, 40))
    assert np.array_equal(split_by_guide(superpixels, noise, min_size=20), superpixels)
    corner = np.zeros_like(superpixels)
    corner[:3, :3] = 1  # a piece too small to be one
    assert np.array_equal(split_by_guide(superpixels, corner, min_size=20), superpixels)
