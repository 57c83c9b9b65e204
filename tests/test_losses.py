"""``DynamicLoss``, the module."""

from __future__ import annotations

import copy
import doctest
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import dynamicseg
from dynamicseg import DynamicLoss, losses, ops
from dynamicseg.weighting import DEFAULT_MU, WEIGHTINGS, Weighting


@pytest.fixture
def x(device: torch.device) -> Tensor:
    return torch.randn(3, 6, 7, 8, device=device).requires_grad_()


def test_it_is_a_public_name() -> None:
    assert dynamicseg.DynamicLoss is losses.DynamicLoss


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_it_is_the_op(x: Tensor, weighting: Weighting) -> None:
    mask = torch.rand(3, 7, 8, device=x.device) > 0.4
    superpixels = torch.randint(10, (3, 7, 8), device=x.device)
    for mu in (None, 4.0):
        output = DynamicLoss(weighting, mu, reduction="none")(x, mask, superpixels)
        expected = ops.dynamic_loss(x, weighting=weighting, mu=mu, mask=mask, superpixels=superpixels)
        for part, true in zip(output, expected, strict=True):
            assert torch.equal(part, true)


def test_its_optional_terms_are_those_of_the_op(x: Tensor) -> None:
    maps: dict[str, Any] = {name: torch.randint(-1, 6, (3, 7, 8), device=x.device) for name in ("scribbles", "guide")}
    loss = DynamicLoss(continuity="huber", diagonals=True, label_floor=9, reduction="none")
    expected = ops.dynamic_loss(x, continuity="huber", diagonals=True, label_floor=9, **maps, guide_weight=0.3)
    for part, true in zip(loss(x, **maps, guide_weight=0.3), expected, strict=True):
        assert torch.equal(part, true)


def test_mean_is_over_the_batch_and_of_the_loss_alone(x: Tensor) -> None:
    mean, each = DynamicLoss()(x), DynamicLoss(reduction="none")(x)
    assert mean.loss.shape == ()
    assert each.loss.shape == (3,)
    torch.testing.assert_close(mean.loss, each.loss.mean())
    for name in mean._fields[1:]:
        assert torch.equal(getattr(mean, name), getattr(each, name))


def test_mean_and_none_have_the_gradients_to_match(x: Tensor) -> None:
    (of_mean,) = torch.autograd.grad(DynamicLoss()(x).loss, x)
    (of_sum,) = torch.autograd.grad(DynamicLoss(reduction="none")(x).loss.sum(), x)
    torch.testing.assert_close(of_mean * 3, of_sum)


def test_a_batch_without_images_has_no_mean(device: torch.device) -> None:
    empty = torch.zeros(0, 6, 7, 8, device=device)
    with pytest.raises(ValueError, match=r"x has shape \[0, 6, 7, 8\]: there is no mean .* reduction='none'"):
        DynamicLoss()(empty)
    assert DynamicLoss(reduction="none")(empty).loss.shape == (0,)
    output, grad_x = ops.dynamic_loss_and_grad(empty)
    assert (output.loss.shape, grad_x.shape) == ((0,), empty.shape)


def test_default_is_feature_similarity_focus_with_the_published_constants() -> None:
    assert DynamicLoss().weighting == "fsf"
    assert {weighting: DynamicLoss(weighting).mu for weighting in WEIGHTINGS} == DEFAULT_MU


def test_a_map_in_bfloat16_under_autocast(device: torch.device) -> None:
    network = torch.nn.Conv2d(3, 8, 3).to(device)
    image = torch.rand(1, 3, 9, 9, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        x = network(image)
        output = DynamicLoss()(x)
    assert x.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    torch.autograd.backward(output.loss)
    assert network.weight.grad is not None
    assert network.weight.grad.isfinite().all()
    assert network.weight.grad.abs().sum() > 0


def test_it_has_no_state_and_copies() -> None:
    loss = DynamicLoss("scf", 3.5, reduction="none")
    assert not loss.state_dict()
    assert not list(loss.parameters())
    twin = copy.deepcopy(loss)
    assert (twin.weighting, twin.mu, twin.reduction) == ("scf", 3.5, "none")


def test_repr_is_a_call_that_makes_it() -> None:
    text = repr(DynamicLoss("scf", 3.5, reduction="none"))
    assert text == "DynamicLoss(weighting='scf', mu=3.5, reduction='none')"
    text = repr(DynamicLoss(continuity="huber", diagonals=True, label_floor=4))
    assert text == (
        "DynamicLoss(weighting='fsf', mu=15, continuity='huber', diagonals=True, label_floor=4, reduction='mean')"
    )


@pytest.mark.parametrize(
    ("options", "got", "wanted"),
    [
        ({"weighting": "FSF"}, "'FSF'", "fsf, scf, fixed"),
        ({"mu": 0}, "mu is 0.0", "> 0"),
        ({"mu": -1}, "mu is -1.0", "> 0"),
        ({"mu": float("nan")}, "mu is nan", "finite"),
        ({"mu": float("inf")}, "mu is inf", "finite"),
        ({"continuity": "l2"}, "'l2'", "l1, huber"),
        ({"label_floor": 0}, "label_floor is 0", ">= 1"),
        ({"reduction": "sum"}, "'sum'", "mean or none"),
    ],
)
def test_mistakes_are_found_when_it_is_made(options: dict[str, object], got: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=re.escape(got)) as raised:
        DynamicLoss(**options)  # type: ignore[arg-type]
    assert wanted in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_example_of_the_docstring() -> None:
    results = doctest.testmod(losses, extraglobs={"torch": torch})
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("mu", ["a", [1.0], True])
def test_a_mu_that_is_no_number_is_named(mu: object) -> None:
    with pytest.raises(TypeError, match=r"^mu is .*: pass a number$"):
        DynamicLoss(mu=mu)  # type: ignore[arg-type]
