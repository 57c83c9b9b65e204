"""``ops.dynamic_loss`` under autograd, ``torch.compile`` and ``torch.export``."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from dynamic_loss_cases import (
    FORMATS,
    Tolerances,
    blocks,
    each_dtype,
    each_format,
    each_weighting,
    holes,
    op_arguments,
    response_map,
)
from gradients import assert_gradients_close
from torch import Tensor, nn

from dynamicseg import DynamicLoss, DynamicLossOutput, reference
from dynamicseg.ops import dynamic_loss, dynamic_loss_and_grad
from dynamicseg.weighting import Weighting


class TestAutograd:
    @each_weighting
    @each_format
    @pytest.mark.parametrize("options", ["", "mask", "superpixels", "mask and superpixels"])
    def test_gradcheck(self, weighting: Weighting, channels_last: bool, options: str) -> None:
        # Numbers 0.1 apart, so that no step of the check meets a tie or a kink.
        shape = (2, 3, 4, 5)
        x = (torch.randperm(2 * 3 * 4 * 5).reshape(shape) / 10).double()
        x = x.contiguous(memory_format=FORMATS[channels_last]).requires_grad_()
        mask = holes(shape) if "mask" in options else None
        superpixels = blocks(shape) if "superpixels" in options else None
        loss = functools.partial(dynamic_loss, weighting=weighting, mask=mask, superpixels=superpixels)
        assert torch.autograd.gradcheck(lambda x: loss(x).loss, (x,))

    def test_backward_twice(self, device: torch.device) -> None:
        x = response_map((2, 7, 5, 9)).to(device).requires_grad_()
        loss = dynamic_loss(x).loss.sum()
        (first,) = torch.autograd.grad(loss, x, retain_graph=True)
        (second,) = torch.autograd.grad(loss, x)
        assert torch.equal(first, second)

    def test_gradients_accumulate(self, device: torch.device) -> None:
        x = response_map((2, 7, 5, 9)).to(device).requires_grad_()
        (once,) = torch.autograd.grad(dynamic_loss(x).loss.sum(), x)
        for _ in range(2):
            torch.autograd.backward(dynamic_loss(x).loss.sum())
        assert x.grad is not None
        torch.testing.assert_close(x.grad, 2 * once)

    @pytest.mark.parametrize("scale", [0.0, -3.0, 1e-3])
    def test_scaled_by_the_arriving_gradient(self, device: torch.device, scale: float) -> None:
        x = response_map((2, 7, 5, 9)).to(device).requires_grad_()
        (grad_x,) = torch.autograd.grad(dynamic_loss(x).loss.sum(), x)
        (scaled,) = torch.autograd.grad(dynamic_loss(x).loss.sum() * scale, x)
        torch.testing.assert_close(scaled, grad_x * scale)

    def test_each_image_by_its_own_arriving_gradient(self, device: torch.device) -> None:
        x = response_map((3, 7, 5, 9)).to(device).requires_grad_()
        scales = torch.tensor([2.0, 0.0, -0.5], device=device)
        (grad_x,) = torch.autograd.grad(dynamic_loss(x).loss.sum(), x)
        (scaled,) = torch.autograd.grad(dynamic_loss(x).loss, x, scales)
        torch.testing.assert_close(scaled, grad_x * scales[:, None, None, None])

    def test_only_the_loss_has_a_gradient(self, device: torch.device) -> None:
        output = dynamic_loss(response_map((2, 7, 5, 9)).to(device).requires_grad_())
        wanted = {"loss"}
        assert {n for n in output._fields if getattr(output, n).requires_grad} == wanted

    def test_a_map_changed_before_the_backward_pass_is_an_error(self) -> None:
        x = response_map((1, 7, 5, 9)).requires_grad_()
        changed = x * 1
        loss = dynamic_loss(changed).loss.sum()
        changed.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(loss, x)

    def test_a_second_derivative_is_an_error(self) -> None:
        x = response_map((1, 7, 5, 9)).requires_grad_()
        (grad_x,) = torch.autograd.grad(dynamic_loss(x).loss.sum(), x, create_graph=True)
        with pytest.raises(RuntimeError):
            torch.autograd.grad(grad_x.square().sum(), x)

    @each_format
    def test_loss_and_grad_is_the_mean_over_the_batch(
        self, device: torch.device, channels_last: bool, tolerances: Tolerances
    ) -> None:
        x = response_map((3, 7, 5, 9), channels_last=channels_last).to(device).requires_grad_()
        output, grad_x = dynamic_loss_and_grad(x)
        (expected,) = torch.autograd.grad(dynamic_loss(x).loss.mean(), x)
        assert_gradients_close(grad_x, expected, tolerances[x.dtype].gradient)
        assert not any(part.requires_grad for part in (*output, grad_x))
        assert x.grad is None

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_loss_and_grad_without_autograd(self, mode: Callable[[], Any]) -> None:
        x = response_map((1, 7, 5, 9))
        _, expected = dynamic_loss_and_grad(x)
        with mode():
            assert torch.equal(dynamic_loss_and_grad(x)[1], expected)

    @pytest.mark.parametrize("weighting", ["fsf", "scf"])
    def test_twenty_steps_of_training(self, weighting: Weighting) -> None:
        def train(loss: Callable[[Tensor], DynamicLossOutput]) -> tuple[list[float], Tensor]:
            torch.manual_seed(1)
            network = nn.Sequential(
                *[nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(12)],
                *[nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12)],
            ).double()
            optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
            image = torch.rand(2, 3, 20, 24, dtype=torch.float64)
            history = []
            for _ in range(20):
                optimizer.zero_grad()
                output = loss(network(image))
                torch.autograd.backward(output.loss.mean())
                optimizer.step()
                history.append(output.loss.mean().item())
            return history, nn.utils.parameters_to_vector(network.parameters()).detach()

        history, weights = train(DynamicLoss(weighting))
        expected_history, expected_weights = train(functools.partial(reference.dynamic_loss, weighting=weighting))
        assert len(set(history)) == 20
        assert history == pytest.approx(expected_history, rel=1e-9)
        torch.testing.assert_close(weights, expected_weights, rtol=1e-8, atol=1e-8)


class TestTorchLibrary:
    @each_format
    @each_dtype
    @pytest.mark.parametrize("options", ["", "mask", "mask and superpixels"])
    def test_opcheck(self, dtype: torch.dtype, channels_last: bool, options: str) -> None:
        x = response_map((2, 5, 6, 7), dtype, channels_last)
        mask = holes(x.shape) if "mask" in options else None
        superpixels = blocks(x.shape) if "superpixels" in options else None
        namespace = torch.ops.dynamicseg
        told = op_arguments(x, mask=mask, superpixels=superpixels)
        for leaf in (x, x.clone().requires_grad_()):
            torch.library.opcheck(namespace.dynamic_loss, (leaf, *told))
        torch.library.opcheck(namespace.dynamic_loss_and_grad, (x, *told))
        _, _, _, weight, _, labels, *_, logsumexp = namespace.dynamic_loss(x, *told)
        arguments = (torch.ones_like(weight), x, mask, None, None, None, labels, logsumexp, weight, "l1", False)
        torch.library.opcheck(namespace.dynamic_loss_backward, arguments)

    def test_opcheck_of_large_results(self) -> None:
        x = response_map((1, 100, 110, 101))
        torch.library.opcheck(torch.ops.dynamicseg.dynamic_loss_and_grad, (x, *op_arguments(x)))

    # PyTorch's own, while it loads inductor.
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
    def test_compile(self, backend: str) -> None:
        if backend == "inductor" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            pytest.skip("inductor needs a C++ compiler")

        def train(x: Tensor, mask: Tensor | None) -> tuple[DynamicLossOutput, Tensor]:
            output = DynamicLoss("scf", reduction="none")(x * 2, mask)
            return output, (output.loss * output.label_counts).sum()

        torch.compiler.reset()
        compiled = torch.compile(train, fullgraph=True, backend=backend)
        for masked in (False, True):
            x = response_map((2, 6, 11, 9)).requires_grad_()
            mask = holes(x.shape) if masked else None
            output, total = compiled(x, mask)
            expected, expected_total = train(x, mask)
            for part, true in zip(output, expected, strict=True):
                torch.testing.assert_close(part, true)
            (grad_x,) = torch.autograd.grad(total, x)
            torch.testing.assert_close(grad_x, torch.autograd.grad(expected_total, x)[0])

    @each_format
    def test_export_with_dynamic_shapes(self, channels_last: bool) -> None:
        sizes = {name: torch.export.Dim(name, min=2, max=512) for name in ("height", "width")}
        exported = torch.export.export(
            DynamicLoss(),
            (response_map((2, 6, 11, 9), channels_last=channels_last),),
            dynamic_shapes={"x": {2: sizes["height"], 3: sizes["width"]}},
        )
        x = response_map((2, 6, 23, 17), channels_last=channels_last)
        actual = exported.module()(x)
        for part, true in zip(actual, DynamicLoss()(x), strict=True):
            assert torch.equal(part, true)
