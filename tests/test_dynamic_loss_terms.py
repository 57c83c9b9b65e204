"""The optional terms of ``ops.dynamic_loss``: every kernel against the reference, alone and together."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from dynamic_loss_cases import (
    FORMATS,
    PAIRWISE,
    WAYS,
    Result,
    Tolerances,
    Way,
    assert_close,
    assert_same_bits,
    each_dtype,
    each_dtype_of_target,
    each_format,
    each_way,
    holes,
    op_arguments,
    options_of,
    response_map,
    some_labels,
    through_autograd,
    to_device,
    true_result,
)
from torch import Tensor

from dynamicseg import DynamicLoss, DynamicLossOutput, reference
from dynamicseg.ops import _runtime, dynamic_loss, dynamic_loss_and_grad

SHAPES = [
    *[(1, 1, 1, 1), (1, 3, 1, 37), (1, 16, 41, 1), (1, 1, 5, 7), (2, 2, 7, 11), (3, 16, 5, 7), (2, 33, 3, 3)],
    *[(1, 100, 13, 19), (2, 129, 5, 11), (1, 1025, 2, 3), (1, 3, 3, 2053), (1, 5, 37, 23)],
    *[(0, 3, 4, 5), (1, 3, 0, 5)],
]


# Computed once for all targets.
@functools.cache
def case(shape: tuple[int, ...], dtype: torch.dtype, chosen: tuple[bool, ...]) -> tuple[Tensor, dict[str, Any], Result]:
    x, options = response_map(shape, dtype), options_of(shape, chosen)
    return x, options, true_result(x, **options)


class TestAgainstReference:
    @each_format
    @each_dtype_of_target
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_options_together(
        self,
        target: torch.device,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        channels_last: bool,
        tolerances: Tolerances,
    ) -> None:
        for chosen in PAIRWISE:
            x, options, expected = case(shape, dtype, chosen)
            x = x.to(target, memory_format=FORMATS[channels_last])
            for way in WAYS:
                assert_close(way(x, **to_device(options, target)), expected, tolerances[dtype])

    @each_format
    @each_dtype_of_target
    def test_gradients_larger_than_the_caches(
        self, target: torch.device, dtype: torch.dtype, channels_last: bool, tolerances: Tolerances
    ) -> None:
        shape = (8 // dtype.itemsize, 100, 73, 75)
        x, options, expected = case(shape, dtype, (True, True, True, True, False, True, False))
        x = x.to(target, memory_format=FORMATS[channels_last])
        assert x.nbytes >= 4 << 20
        for way in WAYS:
            assert_close(way(x, **to_device(options, target)), expected, tolerances[dtype])

    @each_way
    @each_format
    @each_dtype
    @pytest.mark.parametrize("spread", [1e-3, 0.4, 50.0])
    def test_huber_on_both_sides_of_its_bend(
        self,
        way: Way,
        target: torch.device,
        dtype: torch.dtype,
        channels_last: bool,
        spread: float,
        tolerances: Tolerances,
    ) -> None:
        x = response_map((1, 19, 7, 33)) * spread
        x[..., ::5] = x[..., 1::5][..., :7] + 1  # exactly on it
        x = x.to(dtype).contiguous(memory_format=FORMATS[channels_last])
        actual = way(x.to(target), continuity="huber", diagonals=True)
        assert_close(actual, true_result(x, continuity="huber", diagonals=True), tolerances[dtype])

    @each_way
    @each_format
    def test_scribbles_and_guide_on_the_least_likely_label(
        self, way: Way, target: torch.device, channels_last: bool, tolerances: Tolerances
    ) -> None:
        # Where the label's own softmax is nearly 0, its gradient is the sum of all others.
        x = (response_map((2, 12, 9, 10)) * 10).contiguous(memory_format=FORMATS[channels_last])
        least, second = x.argmin(dim=1), x.topk(2, dim=1).indices[:, 1]
        for options in ({"scribbles": least}, {"guide": least}, {"scribbles": second, "guide": least}):
            actual = way(x.to(target), **to_device(options, target))
            assert_close(actual, true_result(x, **options), tolerances[x.dtype])

    @each_way
    @each_format
    def test_strides(self, way: Way, target: torch.device, channels_last: bool, tolerances: Tolerances) -> None:
        whole = response_map((2, 24, 23, 40), channels_last=channels_last).to(target)
        x = whole[:, 3:20, 2:19, 1:34]
        options = options_of(tuple(x.shape), (True,) * 7)
        actual = way(x, **to_device(options, target))
        assert_close(actual, true_result(x, **options), tolerances[x.dtype])

    @pytest.mark.parametrize("name", ["scribbles", "guide"])
    def test_maps_of_labels_need_not_be_contiguous(self, device: torch.device, name: str) -> None:
        x = response_map((2, 7, 12, 12)).to(device)
        labels = some_labels((2, 7, 24, 24), 0.5).to(device)[:, ::2, ::2]
        dense = labels.contiguous()
        assert_same_bits(through_autograd(x, **{name: labels}), through_autograd(x, **{name: dense}))


class TestNothingMoreThanAsked:
    @each_way
    @each_format
    def test_labels_out_of_range_are_none_where_they_are_not_checked(
        self, way: Way, target: torch.device, channels_last: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # As on a GPU, where looking at them would mean waiting.
        monkeypatch.setattr(importlib.import_module("dynamicseg.ops.dynamic_loss"), "check_label_maps", lambda *_: None)
        x = response_map((2, 12, 9, 10), channels_last=channels_last).to(target)
        labels = some_labels((2, 12, 9, 10), 0.6)
        wild = labels.clone()
        for number in (-2, 12, 2**31, 2**32 + 3, -(2**63), 2**63 - 1):
            wild[torch.rand(wild.shape) < 0.1] = number
        tame = wild.where((wild >= 0) & (wild < 12), torch.tensor(-1))
        for name in ("scribbles", "guide"):
            assert_same_bits(way(x, **{name: wild.to(target)}), way(x, **{name: tame.to(target)}))

    @each_way
    @each_format
    @pytest.mark.parametrize("masked", [False, True])
    def test_maps_without_a_label_are_no_maps(
        self, way: Way, target: torch.device, channels_last: bool, masked: bool, tolerances: Tolerances
    ) -> None:
        # Close, not to the bit: kernels with options are other code, where a compiler may fuse other multiplications
        # into additions.
        x = response_map((2, 20, 13, 37), channels_last=channels_last)
        mask = holes(x.shape) if masked else None
        expected = true_result(x, mask)
        none = torch.full((2, 13, 37), -1, device=target)
        for options in ({"scribbles": none}, {"guide": none}, {"scribbles": none, "guide": none}):
            actual = way(x.to(target), None if mask is None else mask.to(target), **options)
            assert_close(actual, expected, tolerances[x.dtype])
            assert actual.output.scribble.eq(0).all()
            assert actual.output.guide.eq(0).all()

    @each_way
    @each_format
    def test_all_valid_is_no_mask(self, way: Way, target: torch.device, channels_last: bool) -> None:
        x = response_map((1, 20, 13, 2055), channels_last=channels_last).to(target)
        options = to_device(options_of(tuple(x.shape), (True, True, True, True, False, False, True)), target)
        mask = torch.ones(1, 13, 2055, dtype=torch.bool, device=target)
        assert_same_bits(way(x, **options | {"mask": mask}), way(x, **options | {"mask": None}))

    @each_way
    @each_format
    def test_masked_labels_do_not_count(self, way: Way, target: torch.device, channels_last: bool) -> None:
        x = response_map((1, 20, 13, 37), channels_last=channels_last).to(target)
        mask = holes(x.shape).to(target)
        labels = some_labels(tuple(x.shape), 0.5).to(target)
        hidden = labels.masked_fill(~mask, -1)
        for name in ("scribbles", "guide"):
            assert_same_bits(way(x, mask, **{name: labels}), way(x, mask, **{name: hidden}))

    @each_way
    @each_format
    def test_a_pixel_that_is_not_finite_under_a_scribble_leaves_the_similarity_alone(
        self, way: Way, target: torch.device, channels_last: bool
    ) -> None:
        x = response_map((1, 20, 5, 9), channels_last=channels_last)
        x[0, 3, 2, 4] = torch.nan
        scribbles = torch.full((1, 5, 9), -1)
        scribbles[0, 2, 4] = 1
        output = way(x.to(target), scribbles=scribbles.to(target)).output
        assert output.scribble.isnan().all()
        torch.testing.assert_close(
            output.similarity.cpu(), reference.dynamic_loss(x, scribbles=scribbles).similarity, rtol=1e-5, atol=0
        )

    def test_the_same_bits_for_any_number_of_threads(self, threads: Callable[[int], None]) -> None:
        x = response_map((2, 33, 40, 41))
        options = options_of(tuple(x.shape), (True,) * 7)
        threads(1)
        alone = [way(x, **options) for way in WAYS]
        threads(4)
        for way, expected in zip(WAYS, alone, strict=True):
            assert_same_bits(way(x, **options), expected)


class TestGuideWeight:
    @each_way
    def test_numbers_and_tensors_are_the_same(self, way: Way, target: torch.device) -> None:
        x = response_map((3, 12, 9, 10)).to(target)
        guide = some_labels((3, 12, 9, 10), 0.6).to(target)
        expected = way(x, guide=guide, guide_weight=0.25)
        quarter = torch.tensor(0.25, device=target)
        for weight in (quarter, quarter.expand(3), quarter.double(), quarter.requires_grad_()):
            assert_same_bits(way(x, guide=guide, guide_weight=weight), expected)

    @each_way
    @each_format
    def test_zero_leaves_the_gradient_alone(
        self, way: Way, target: torch.device, channels_last: bool, tolerances: Tolerances
    ) -> None:
        x = response_map((2, 12, 9, 10), channels_last=channels_last).to(target)
        guide = some_labels((2, 12, 9, 10), 0.6).to(target)
        actual, plain = way(x, guide=guide, guide_weight=0.0), way(x)
        torch.testing.assert_close(actual.output.loss, plain.output.loss)
        torch.testing.assert_close(actual.grad_x, plain.grad_x)
        assert actual.output.guide.gt(0).all()


class TestAutograd:
    @each_format
    @pytest.mark.parametrize("chosen", list(itertools.product((False, True), repeat=7)))
    def test_gradcheck_of_every_combination(self, chosen: tuple[bool, ...], channels_last: bool) -> None:
        # Numbers 0.1 apart, so that no step of the check meets a tie or a kink.
        shape = (2, 2, 3, 3)
        x = (torch.randperm(36).reshape(shape) / 10 + 0.03).double()
        x = x.contiguous(memory_format=FORMATS[channels_last]).requires_grad_()
        # A difference of exactly 1 is where the slope of Huber bends: only the second derivative jumps there.
        options = options_of(shape, chosen)
        assert torch.autograd.gradcheck(lambda leaf: dynamic_loss(leaf, **options).loss, (x,), atol=2e-5)

    @each_format
    @pytest.mark.parametrize("chosen", PAIRWISE)
    def test_opcheck(self, chosen: tuple[bool, ...], channels_last: bool) -> None:
        x = response_map((2, 5, 6, 7), channels_last=channels_last)
        told = op_arguments(x, **options_of(tuple(x.shape), chosen))
        namespace = torch.ops.dynamicseg
        for leaf in (x, x.clone().requires_grad_()):
            torch.library.opcheck(namespace.dynamic_loss, (leaf, *told))
        torch.library.opcheck(namespace.dynamic_loss_and_grad, (x, *told))
        _, _, _, weight, _, labels, *_, logsumexp = namespace.dynamic_loss(x, *told)
        read = (told.mask, told.scribbles, told.guide, told.guide_weight, labels, logsumexp, weight)
        arguments = (torch.ones_like(weight), x, *read, told.continuity, told.diagonals)
        torch.library.opcheck(namespace.dynamic_loss_backward, arguments)

    def test_compile(self) -> None:
        x = response_map((2, 6, 11, 9)).requires_grad_()
        loss = DynamicLoss("scf", continuity="huber", diagonals=True, label_floor=3)
        options = {"scribbles": some_labels((2, 6, 11, 9), 0.3), "guide": some_labels((2, 6, 11, 9), 0.7, seed=1)}

        def train(x: Tensor, guide_weight: Tensor) -> Tensor:
            output: DynamicLossOutput = loss(x * 2, guide_weight=guide_weight, **options)
            return output.loss

        torch.compiler.reset()
        compiled = torch.compile(train, fullgraph=True, backend="aot_eager")
        for weight in (torch.tensor(0.5), torch.tensor([0.1, 2.0])):
            found, expected = compiled(x, weight), train(x, weight)
            torch.testing.assert_close(found, expected)
            torch.testing.assert_close(torch.autograd.grad(found, x)[0], torch.autograd.grad(expected, x)[0])

    def test_export_with_dynamic_shapes(self) -> None:
        sizes = {axis: torch.export.Dim(name, min=2, max=512) for axis, name in [(2, "height"), (3, "width")]}
        of_labels = {axis - 1: size for axis, size in sizes.items()}

        class Loss(torch.nn.Module):
            def forward(self, x: Tensor, scribbles: Tensor, guide: Tensor) -> tuple[Tensor, ...]:
                loss = DynamicLoss(continuity="huber", diagonals=True, label_floor=3)
                return tuple(loss(x, scribbles=scribbles, guide=guide, guide_weight=0.5))

        def inputs(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
            shape = (2, 6, height, width)
            return response_map(shape), some_labels(shape, 0.3), some_labels(shape, 0.7, seed=1)

        exported = torch.export.export(
            Loss(), inputs(11, 9), dynamic_shapes={"x": sizes, "scribbles": of_labels, "guide": of_labels}
        )
        for part, true in zip(exported.module()(*inputs(23, 17)), Loss()(*inputs(23, 17)), strict=True):
            assert torch.equal(part, true)

    def test_plain_pytorch_where_it_is_chosen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        x = response_map((2, 12, 9, 10))
        options = options_of(tuple(x.shape), (True,) * 7)
        native, native_grad = dynamic_loss_and_grad(x, **options)
        monkeypatch.setattr(_runtime, "_WANTED", "reference")
        plain, plain_grad = dynamic_loss_and_grad(x, **options)
        torch.testing.assert_close(plain._asdict(), native._asdict())
        torch.testing.assert_close(plain_grad, native_grad, rtol=1e-4, atol=1e-7)
        with pytest.raises(ValueError, match=r"guide has labels from -1 to 12: pass 0 to 11"):
            dynamic_loss(x, guide=options["guide"].clamp(max=10) + (options["guide"] == 11) * 2)
