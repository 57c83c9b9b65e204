"""``ops.batch_norm_dynamic_loss_and_grad`` is batch norm and then the loss: every target, type and format."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from dynamic_loss_cases import PAIRWISE, op_arguments, options_of
from gradients import Tolerance, assert_gradients_close
from torch import Tensor

from dynamicseg import DynamicLossOutput, _native, reference
from dynamicseg.ops import _runtime, batch_norm_dynamic_loss_and_grad, dynamic_loss_and_grad, relu_batch_norm
from dynamicseg.weighting import WEIGHTINGS

Tolerances = dict[torch.dtype, Tolerance]

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
FORMATS = {False: torch.contiguous_format, True: torch.channels_last}
CPU = torch.device("cpu")
NAN, INF = math.nan, math.inf

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
each_dtype_of_target = pytest.mark.parametrize(
    "dtype", [*DTYPES, torch.float16], ids=lambda dtype: str(dtype).removeprefix("torch.")
)
each_format = pytest.mark.parametrize("channels_last", FORMATS, ids=["contiguous", "channels_last"])

SHAPES = [
    *[(1, 3, 1, 33), (2, 3, 41, 7), (3, 16, 9, 1), (1, 17, 11, 33), (2, 100, 13, 7), (1, 130, 5, 33)],
    *[(1, 1024, 4, 7), (1, 1030, 4, 7), (1, 3, 2, 2053)],
]
# Above 4 MB in every type: gradients are written past the caches.
LARGE = (1, 100, 163, 131)


class Result(NamedTuple):
    output: DynamicLossOutput
    grads: tuple[Tensor, ...]
    """Of z, weight, bias."""


def head(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """z, weight (of both signs) and bias."""
    generator = torch.Generator().manual_seed(math.prod(shape))
    random = functools.partial(torch.randn, generator=generator)
    statistic = torch.float64 if dtype == torch.float64 else torch.float32
    z = (random(shape) * 2 + 0.5).to(dtype).contiguous(memory_format=FORMATS[channels_last])
    return z, random(shape[1]).to(statistic), random(shape[1]).to(statistic)


def holes(shape: tuple[int, ...]) -> Tensor:
    """A mask with about a third of the pixels missing."""
    generator = torch.Generator().manual_seed(math.prod(shape))
    return torch.rand((shape[0], *shape[2:]), generator=generator) > 0.3


def blocks(shape: tuple[int, ...]) -> Tensor:
    """Superpixels of about three by four pixels."""
    images, _, height, width = shape
    numbers = torch.arange(height)[:, None] // 3 * -(-width // 4) + torch.arange(width) // 4
    return numbers.expand(images, -1, -1)


def ours(z: Tensor, weight: Tensor, bias: Tensor, target: torch.device = CPU, **options: Any) -> Result:
    """What the op makes of them on ``target``, back on the CPU."""
    moved: dict[str, Any] = {
        name: option.to(target) if isinstance(option, Tensor) else option for name, option in options.items()
    }
    output, grads = batch_norm_dynamic_loss_and_grad(z.to(target), weight.to(target), bias.to(target), **moved)
    return Result(DynamicLossOutput(*(part.cpu() for part in output)), tuple(grad.cpu() for grad in grads))


def true_result(z: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Result:
    """The reference in float64, on the very values that are passed."""
    leaves = [leaf.detach().double().requires_grad_() for leaf in (z, weight, bias)]
    output = reference.batch_norm_dynamic_loss(*leaves, **options)
    return Result(output._replace(loss=output.loss.detach()), torch.autograd.grad(output.loss.mean(), leaves))


# Computed once for all targets.
@functools.cache
def case(shape: tuple[int, ...], dtype: torch.dtype, masked: bool, united: bool) -> tuple[dict[str, Any], Result]:
    options: dict[str, Any] = {
        "mask": holes(shape) if masked else None,
        "superpixels": blocks(shape) if united else None,
        "weighting": WEIGHTINGS[(shape[1] + masked) % len(WEIGHTINGS)],
    }
    return options, true_result(*head(shape, dtype), **options)


@functools.cache
def case_of_terms(
    shape: tuple[int, ...], dtype: torch.dtype, chosen: tuple[bool, ...]
) -> tuple[dict[str, Any], Result]:
    options = options_of(shape, chosen)
    return options, true_result(*head(shape, dtype), **options)


def assert_close(actual: Result, expected: Result, tolerance: Tolerance) -> None:
    assert torch.equal(actual.output.labels, expected.output.labels)
    assert torch.equal(actual.output.label_counts, expected.output.label_counts)
    for name in ("weight", "similarity", "continuity", "scribble", "guide", "loss"):
        found, true = getattr(actual.output, name).double(), getattr(expected.output, name)
        torch.testing.assert_close(found, true, rtol=5 * tolerance.statistic, atol=5 * tolerance.statistic)
    assert_gradients_close(actual.grads[0], expected.grads[0], 2 * tolerance.gradient)
    for found, true in zip(actual.grads[1:], expected.grads[1:], strict=True):
        # Sums of numbers that nearly cancel, some of them rounded to the type of the map.
        assert_gradients_close(found, true, 2 * tolerance.gradient)


def assert_same_bits(actual: Result, expected: Result) -> None:
    exactly = functools.partial(torch.testing.assert_close, rtol=0, atol=0, equal_nan=True)
    exactly(actual.output._asdict(), expected.output._asdict())
    exactly(tuple(actual.grads), tuple(expected.grads))


class TestAgainstReference:
    @each_format
    @each_dtype_of_target
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_shapes(
        self,
        target: torch.device,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        channels_last: bool,
        tolerances: Tolerances,
    ) -> None:
        for masked, united in [(False, False), (True, False), (True, True)]:
            options, expected = case(shape, dtype, masked, united)
            actual = ours(*head(shape, dtype, channels_last), target, **options)
            assert_close(actual, expected, tolerances[dtype])

    @each_format
    @each_dtype_of_target
    @pytest.mark.parametrize("shape", [(1, 3, 1, 33), (2, 3, 41, 7), (2, 100, 13, 7), (1, 1030, 4, 7)], ids=str)
    def test_optional_terms(
        self,
        target: torch.device,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        channels_last: bool,
        tolerances: Tolerances,
    ) -> None:
        for chosen in PAIRWISE:
            options, expected = case_of_terms(shape, dtype, chosen)
            actual = ours(*head(shape, dtype, channels_last), target, **options)
            assert_close(actual, expected, tolerances[dtype])

    @each_format
    @each_dtype_of_target
    def test_gradients_larger_than_the_caches(
        self, target: torch.device, dtype: torch.dtype, channels_last: bool, tolerances: Tolerances
    ) -> None:
        options, expected = case(LARGE, dtype, True, True)
        z, weight, bias = head(LARGE, dtype, channels_last)
        assert z.nbytes >= 4 << 20
        actual = ours(z, weight, bias, target, **options)
        assert_close(actual, expected, tolerances[dtype])
        assert actual.grads[0].stride() == z.stride()
        assert actual.grads[0].dtype == dtype

    @each_format
    def test_one_channel_is_one_label(self, target: torch.device, channels_last: bool, tolerances: Tolerances) -> None:
        z, weight, bias = head((2, 1, 7, 33), torch.float32, channels_last)
        actual = ours(z, weight, bias, target)
        assert actual.output.labels.eq(0).all()
        assert actual.output.label_counts.tolist() == [1, 1]
        torch.testing.assert_close(actual.output.similarity, torch.zeros(2), rtol=0, atol=1e-6)
        expected = true_result(z, weight, bias)
        assert_gradients_close(actual.grads[0], expected.grads[0], tolerances[z.dtype].gradient)
        assert_gradients_close(actual.grads[1], expected.grads[1], tolerances[z.dtype].gradient)

    @each_format
    @pytest.mark.parametrize("options", [{}, {"weighting": "scf", "mu": 3.0}], ids=["defaults", "scf"])
    def test_two_ops_one_after_the_other(
        self, target: torch.device, channels_last: bool, options: dict[str, Any], tolerances: Tolerances
    ) -> None:
        z, weight, bias = head((2, 20, 31, 47), torch.float32, channels_last)
        leaves = [leaf.to(target).requires_grad_() for leaf in (z, weight, bias)]
        x = relu_batch_norm(*leaves, relu=False)
        output, grad_x = dynamic_loss_and_grad(x, **options)
        assert_close(
            ours(z, weight, bias, target, **options),
            Result(
                DynamicLossOutput(
                    *(part.cpu().double() if part.is_floating_point() else part.cpu() for part in output)
                ),
                tuple(grad.cpu() for grad in torch.autograd.grad(x, leaves, grad_x)),
            ),
            tolerances[z.dtype],
        )

    @each_format
    def test_a_mean_far_from_0(self, target: torch.device, channels_last: bool) -> None:
        z, weight, bias = head((1, 20, 30, 40), torch.float32, channels_last)
        z += 1e3
        actual, expected = ours(z, weight, bias, target), true_result(z, weight, bias)
        # float32 has steps of 6e-5 at 1000, and means are float32.
        assert (actual.output.labels == expected.output.labels).float().mean() > 0.999
        torch.testing.assert_close(actual.output.loss.double(), expected.output.loss, rtol=1e-4, atol=0)
        assert_gradients_close(actual.grads[0], expected.grads[0], 1e-3)

    @each_format
    @each_dtype
    def test_constant_channels(
        self, target: torch.device, dtype: torch.dtype, channels_last: bool, tolerances: Tolerances
    ) -> None:
        z, weight, bias = head((1, 19, 9, 40), dtype, channels_last)
        z[:, ::2] = 3.0
        weight[::4] = 0  # a channel that its weight makes constant, too
        actual, expected = ours(z, weight, bias, target), true_result(z, weight, bias)
        assert torch.equal(actual.output.labels, expected.output.labels)
        torch.testing.assert_close(actual.output.loss.double(), expected.output.loss, rtol=1e-5, atol=0)
        moving = slice(1, None, 2)
        assert_gradients_close(actual.grads[0][:, moving], expected.grads[0][:, moving], 2 * tolerances[dtype].gradient)
        assert all(part.isfinite().all() for part in actual.grads)

    @each_format
    @each_dtype
    @pytest.mark.parametrize("value", [NAN, INF, -INF])
    def test_numbers_that_are_not_finite(
        self, target: torch.device, value: float, dtype: torch.dtype, channels_last: bool
    ) -> None:
        # They make their whole channel NaN, whose first one then has every label.
        z, weight, bias = head((1, 18, 7, 33), dtype, channels_last)
        z[0, 4, 3, 20] = value
        z[0, 9, 1, 1] = value
        for options in ({}, {"superpixels": blocks(z.shape)}, {"mask": holes(z.shape)}):
            actual = ours(z, weight, bias, target, **options)
            valid = options.get("mask", torch.ones(1, 7, 33, dtype=torch.bool))
            assert actual.output.labels[valid].eq(4).all()
            assert actual.output.loss.isnan().all()


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "crop": lambda z: z[:, :, 3:-2, 2:-5],
    "some channels": lambda z: z[:, 2:9],
    "last image": lambda z: z[1:],
    "every second row": lambda z: z[:, :, ::2],
    "every second pixel": lambda z: z[:, :, ::2, ::2],
    "one column, far apart": lambda z: z[..., ::30],
}


class TestMemory:
    @each_dtype
    @each_format
    @pytest.mark.parametrize("view", VIEWS)
    def test_views(self, view: str, dtype: torch.dtype, channels_last: bool) -> None:
        whole, weight, bias = head((2, 20, 24, 30), dtype, channels_last)
        z = VIEWS[view](whole)
        parameters = weight[: z.shape[1]], bias[: z.shape[1]]
        options: dict[str, Any] = {"mask": holes(z.shape)}
        dense = z.contiguous(memory_format=FORMATS[channels_last])
        assert_same_bits(ours(z, *parameters, **options), ours(dense, *parameters, **options))

    def test_arguments_stay_as_they_are(self) -> None:
        arguments = head((1, 20, 24, 30), torch.float32, True)
        before = [argument.clone() for argument in arguments]
        for argument in arguments:
            argument.requires_grad_()
        actual = ours(*arguments)
        assert all(torch.equal(argument, was) for argument, was in zip(arguments, before, strict=True))
        assert not any(part.requires_grad for part in (*actual.output, *actual.grads))


class TestDeterminism:
    @each_format
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
    @pytest.mark.parametrize("shape", [(2, 17, 67, 131), LARGE], ids=str)
    def test_same_bits_for_any_number_of_threads(
        self, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, threads: Callable[[int], None]
    ) -> None:
        arguments = head(shape, dtype, channels_last)
        several: list[dict[str, Any]] = [{"mask": holes(shape)}, {"superpixels": blocks(shape)}]
        for options in several:
            first = ours(*arguments, **options)
            for count in (1, 2, 3):
                threads(count)
                assert_same_bits(ours(*arguments, **options), first)


class _AsFunction(torch.autograd.Function):
    """The op as a differentiable function, for the check of its gradients."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, options: dict[str, Any]) -> Tensor:
        output, ctx.grads = batch_norm_dynamic_loss_and_grad(z, weight, bias, **options)
        return output.loss.mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        (grad_loss,) = grad_outputs
        return *(grad * grad_loss for grad in ctx.grads), None


class TestTorchLibrary:
    @each_format
    @pytest.mark.parametrize("given", ["", "mask", "all"])
    def test_gradcheck(self, channels_last: bool, given: str) -> None:
        # Numbers 0.1 apart, so that no step of the check meets a tie.
        shape = (2, 3, 4, 5)
        z = (torch.randperm(2 * 3 * 4 * 5).reshape(shape) / 10).double()
        z = z.contiguous(memory_format=FORMATS[channels_last]).requires_grad_()
        weight = torch.tensor([0.5, -1.5, 2.0]).double().requires_grad_()
        bias = torch.tensor([0.1, 0.0, -0.3]).double().requires_grad_()
        options: dict[str, Any] = {"mask": holes(shape)} if given == "mask" else {}
        if given == "all":
            options = options_of(shape, (True,) * 7)

        def loss(*leaves: Tensor) -> Any:
            return _AsFunction.apply(*leaves, options)  # type: ignore[no-untyped-call]

        assert torch.autograd.gradcheck(loss, (z, weight, bias))

    @each_format
    @each_dtype
    @pytest.mark.parametrize("given", [False, True], ids=["", "all"])
    def test_opcheck(self, dtype: torch.dtype, channels_last: bool, given: bool) -> None:
        z, weight, bias = head((2, 5, 6, 7), dtype, channels_last)
        op = torch.ops.dynamicseg.batch_norm_dynamic_loss_and_grad
        told = op_arguments(z, **options_of((2, 5, 6, 7), (given,) * 7))
        torch.library.opcheck(op, (z, weight, bias, 1e-5, *told))

    @each_dtype
    def test_plain_pytorch_where_it_is_chosen(self, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
        arguments = head((2, 6, 11, 9), dtype, True)
        native = ours(*arguments, mask=holes((2, 6, 11, 9)))
        monkeypatch.setattr(_runtime, "_WANTED", "reference")
        monkeypatch.setattr(_native, "batch_norm_dynamic_loss", None)
        with torch.no_grad():
            plain = ours(*arguments, mask=holes((2, 6, 11, 9)))
        assert torch.equal(plain.output.labels, native.output.labels)
        torch.testing.assert_close(plain.output.loss, native.output.loss)
        assert not plain.output.loss.requires_grad
        for found, true in zip(plain.grads, native.grads, strict=True):
            assert found.dtype == true.dtype
            assert_gradients_close(found, true, 2e-2 if dtype == torch.bfloat16 else 1e-4)


def call(z: Any = None, weight: Any = None, bias: Any = None, **options: Any) -> Callable[[], object]:
    return lambda: batch_norm_dynamic_loss_and_grad(
        torch.zeros(2, 3, 4, 5) if z is None else z,
        torch.ones(3) if weight is None else weight,
        torch.zeros(3) if bias is None else bias,
        **options,
    )


# A call, and the kind of error, what was passed, and what should have been.
MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str, str]] = {
    "array": (call(np.zeros((1, 3, 3, 4))), TypeError, "z is a ndarray", "torch.Tensor"),
    "3 dimensions": (call(torch.zeros(3, 4, 5)), ValueError, "z has shape [3, 4, 5]", "[B, C, H, W]"),
    "one value": (call(torch.zeros(1, 3, 1, 1)), ValueError, "z has shape [1, 3, 1, 1]", "at least 2 values"),
    "int64": (call(torch.zeros(2, 3, 4, 5).long()), TypeError, "z is torch.int64", "float32"),
    "weight float64": (call(weight=torch.ones(3).double()), TypeError, "weight is torch.float64", "torch.float32"),
    "bias shape": (call(bias=torch.ones(4)), ValueError, "bias has shape [4]", "pass [3]"),
    "mu": (call(mu=0), ValueError, "mu is 0.0", "> 0"),
    "weighting": (call(weighting="FSF"), ValueError, "'FSF'", "fsf, scf, fixed"),
    "mask": (call(mask=torch.ones(4, 5, dtype=torch.bool)), ValueError, "z [2, 3, 4, 5]", "[B, H, W]"),
    "superpixels": (call(superpixels=torch.zeros(2, 4, 5).int()), TypeError, "torch.int32", "int64 tensor"),
    "eps": (call(eps=-1.0), ValueError, "eps is -1.0", "> 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_say_what_was_passed_and_what_is_wanted(mistake: str) -> None:
    wrong, kind, got, wanted = MISTAKES[mistake]
    with pytest.raises(kind, match=re.escape(got)) as raised:
        wrong()
    text = str(raised.value)
    assert wanted in text
    assert "\n" not in text
