"""``ops.relu_batch_norm`` is ``reference.relu_batch_norm``: the kernels of every target, type and format."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gradients import Tolerance, assert_gradients_close
from torch import Tensor

from dynamicseg import _native, reference
from dynamicseg.ops import _runtime, relu_batch_norm

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
with_and_without_relu = pytest.mark.parametrize("relu", [True, False], ids=["relu", "no relu"])

SHAPES = [
    *[(1, 1, 5, 7), (2, 1, 33, 1), (1, 3, 1, 33), (2, 3, 41, 7), (3, 16, 9, 1), (1, 17, 11, 33)],
    *[(2, 100, 13, 7), (1, 130, 5, 33), (1, 1030, 4, 7), (1, 8, 67, 131), (2, 7, 600, 1)],
]
# Above 4 MB in every type: written past the caches.
LARGE = (1, 100, 163, 131)


def layer(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False) -> dict[str, Any]:
    """What goes into the op, and the gradient that arrives at what comes out."""
    generator = torch.Generator().manual_seed(math.prod(shape))
    random = functools.partial(torch.randn, generator=generator)
    statistic = torch.float64 if dtype == torch.float64 else torch.float32
    in_format = functools.partial(Tensor.contiguous, memory_format=FORMATS[channels_last])
    return {
        "x": in_format((random(shape) * 2 + 0.5).to(dtype)),
        "weight": random(shape[1]).to(statistic),
        "bias": random(shape[1]).to(statistic),
        "grad_y": in_format(random(shape).to(dtype)),
    }


def differentiate(
    op: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor, grad_y: Tensor, relu: bool = True
) -> dict[str, Tensor]:
    leaves = [leaf.detach().requires_grad_() for leaf in (x, weight, bias)]
    y = op(*leaves, relu=relu)
    grads = torch.autograd.grad(y, leaves, grad_y)
    return dict(zip(("y", "grad_x", "grad_weight", "grad_bias"), (y.detach(), *grads), strict=True))


def ours(
    x: Tensor, weight: Tensor, bias: Tensor, grad_y: Tensor, relu: bool = True, target: torch.device = CPU
) -> dict[str, Tensor]:
    """What the op makes of them on ``target``, back on the CPU."""
    results = differentiate(relu_batch_norm, x.to(target), weight.to(target), bias.to(target), grad_y.to(target), relu)
    return {name: value.cpu() for name, value in results.items()}


@functools.cache
def case(shape: tuple[int, ...], dtype: torch.dtype, relu: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Arguments, and what the reference makes of their very values in float64; once for all targets."""
    arguments = layer(shape, dtype)
    in_double = {name: value.double() for name, value in arguments.items()}
    return arguments, differentiate(reference.relu_batch_norm, **in_double, relu=relu)


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: Tolerance) -> None:
    for name, value in actual.items():
        is_map = value.dim() == 4
        assert_gradients_close(value, expected[name], tolerance.gradient if is_map else 5 * tolerance.statistic)


def assert_same_bits(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


class TestAgainstReference:
    @with_and_without_relu
    @each_format
    @each_dtype_of_target
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_shapes(
        self,
        target: torch.device,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        channels_last: bool,
        relu: bool,
        tolerances: Tolerances,
    ) -> None:
        arguments, expected = case(shape, dtype, relu)
        x, grad_y = (arguments[name].contiguous(memory_format=FORMATS[channels_last]) for name in ("x", "grad_y"))
        actual = ours(x, arguments["weight"], arguments["bias"], grad_y, relu, target)
        assert_close(actual, expected, tolerances[dtype])
        assert actual["y"].dtype == actual["grad_x"].dtype == dtype
        assert actual["y"].stride() == actual["grad_x"].stride() == x.stride()

    @each_format
    @each_dtype_of_target
    def test_results_larger_than_the_caches(
        self, target: torch.device, dtype: torch.dtype, channels_last: bool, tolerances: Tolerances
    ) -> None:
        arguments, expected = case(LARGE, dtype, True)
        x, grad_y = (arguments[name].contiguous(memory_format=FORMATS[channels_last]) for name in ("x", "grad_y"))
        assert x.nbytes >= 4 << 20
        actual = ours(x, arguments["weight"], arguments["bias"], grad_y, target=target)
        assert_close(actual, expected, tolerances[dtype])
        assert actual["y"].stride() == actual["grad_x"].stride() == x.stride()

    def test_the_reference_is_the_formula(self) -> None:
        arguments = layer((3, 5, 7, 4), torch.float64)
        x, weight, bias = (arguments[name] for name in ("x", "weight", "bias"))
        for relu in (True, False):
            r = x.clamp(min=0) if relu else x
            mean = r.mean(dim=(0, 2, 3), keepdim=True)
            variance = (r - mean).square().mean(dim=(0, 2, 3), keepdim=True)
            y = weight[:, None, None] * (r - mean) / (variance + 1e-3).sqrt() + bias[:, None, None]
            torch.testing.assert_close(reference.relu_batch_norm(x, weight, bias, relu=relu, eps=1e-3), y)
            torch.testing.assert_close(relu_batch_norm(x, weight, bias, relu=relu, eps=1e-3), y)

    @each_format
    def test_a_mean_far_from_0_costs_no_digits_of_the_variance(
        self, target: torch.device, channels_last: bool, tolerances: Tolerances
    ) -> None:
        # The first pixels are far from the others, so that no single value could stand in for the mean.
        arguments = layer((1, 20, 60, 70), torch.float32, channels_last)
        arguments["x"] += 1e3
        arguments["x"][:, :, 0, :2] -= 900
        in_double = {name: value.double() for name, value in arguments.items()}
        expected = differentiate(reference.relu_batch_norm, **in_double)
        actual = ours(**arguments, target=target)
        # float32 has steps of 6e-5 at 1000, and means are float32.
        torch.testing.assert_close(actual["y"].double(), expected["y"], rtol=0, atol=1e-4)
        assert_gradients_close(actual["grad_weight"], expected["grad_weight"], 1e-4)
        assert_gradients_close(actual["grad_x"], expected["grad_x"], 1e-4)

    @each_format
    @each_dtype
    @pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e30, 0.1])
    def test_constant_channels_give_the_bias(
        self, target: torch.device, value: float, dtype: torch.dtype, channels_last: bool
    ) -> None:
        arguments = layer((2, 19, 9, 40), dtype, channels_last)
        arguments["x"][:, ::2] = value
        actual = ours(**arguments, target=target)
        bias = arguments["bias"][::2, None, None].to(dtype).expand(2, -1, 9, 40)
        assert torch.equal(actual["y"][:, ::2], bias)
        assert all(part.isfinite().all() for part in actual.values())
        if value <= 0:
            assert actual["grad_x"][:, ::2].eq(0).all()

    @each_format
    @each_dtype
    @pytest.mark.parametrize("value", [NAN, INF, -INF])
    def test_numbers_that_are_not_finite_stay_in_their_channels(
        self, target: torch.device, value: float, dtype: torch.dtype, channels_last: bool
    ) -> None:
        arguments = layer((1, 18, 7, 33), dtype, channels_last)
        clean = ours(**arguments, target=target)
        arguments["x"][0, 4, 3, 20] = value
        actual = ours(**arguments, target=target)
        theirs = differentiate(reference.relu_batch_norm, **arguments)
        others = [c for c in range(18) if c != 4]
        for name, part in actual.items():
            channels = 1 if part.dim() == 4 else 0
            assert torch.equal(
                part.index_select(channels, torch.tensor(others)),
                clean[name].index_select(channels, torch.tensor(others)),
            )
        assert torch.equal(actual["y"][0, 4].isnan(), theirs["y"][0, 4].isnan())

    def test_two_values_are_one_above_and_one_below(self, target: torch.device) -> None:
        x = torch.tensor([1.0, 5.0], device=target).view(1, 1, 1, 2)
        y = relu_batch_norm(x, torch.tensor([3.0], device=target), torch.tensor([0.5], device=target))
        torch.testing.assert_close(y.flatten().cpu(), torch.tensor([-2.5, 3.5]), rtol=1e-5, atol=0)


# A view of a map [2, 20, 24, 30], and the formats of the map in which it is read where it lies.
VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], set[bool]]] = {
    "crop": (lambda x: x[:, :, 3:-2, 2:-5], {False, True}),
    "some channels": (lambda x: x[:, 2:9], {False, True}),
    "one channel": (lambda x: x[:, 3:4], {False, True}),
    "one column": (lambda x: x[..., 4:5], {False, True}),
    "last image": (lambda x: x[1:], {False, True}),
    "expanded images": (lambda x: x[:1].expand(3, -1, -1, -1), {False, True}),
    "every second row": (lambda x: x[:, :, ::2], {False, True}),
    "every second pixel": (lambda x: x[:, :, ::2, ::2], {True}),
    "every second channel": (lambda x: x[:, ::2], {False}),
    "transposed": (lambda x: x.transpose(2, 3), {True}),
}


class TestMemory:
    @each_dtype
    @each_format
    @pytest.mark.parametrize("view", VIEWS)
    def test_views_are_read_where_they_lie(
        self,
        view: str,
        dtype: torch.dtype,
        channels_last: bool,
        tolerances: Tolerances,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        calls: list[dict[str, Any]] = []
        original = _native.ReluBatchNormParams

        def record(**params: Any) -> _native.ReluBatchNormParams:
            calls.append(params)
            return original(**params)

        monkeypatch.setattr(_native, "ReluBatchNormParams", record)
        make, read_in_place = VIEWS[view]
        arguments = layer((2, 20, 24, 30), dtype, channels_last)
        x, grad_y = make(arguments["x"]), make(arguments["grad_y"])
        weight, bias = arguments["weight"][: x.shape[1]], arguments["bias"][: x.shape[1]]
        actual = ours(x, weight, bias, grad_y)
        assert ({call["x"] for call in calls} == {x.data_ptr()}) == (channels_last in read_in_place)
        last = calls[0]["format"] == "channels_last"
        dense_x, dense_grad_y = (t.contiguous(memory_format=FORMATS[last]) for t in (x, grad_y))
        dense = ours(dense_x, weight, bias, dense_grad_y)
        if last and x.shape[1] == 1:  # dense, one channel is rows, and meets the kernels that sum in another order
            assert_close(actual, dense, tolerances[dtype])
        else:
            assert_same_bits(actual, dense)

    @each_format
    def test_gradients_arrive_in_any_format(self, channels_last: bool) -> None:
        arguments = layer((2, 20, 9, 11), torch.float32, channels_last)
        expected = ours(**arguments)
        other = arguments["grad_y"].contiguous(memory_format=FORMATS[not channels_last])
        assert_same_bits(ours(**arguments | {"grad_y": other}), expected)
        leaf = arguments["x"].requires_grad_()
        (grad_x,) = torch.autograd.grad(relu_batch_norm(leaf, arguments["weight"], arguments["bias"]).sum(), leaf)
        assert grad_x.abs().max() < 1e-5  # a sum of normalised numbers is that of the biases

    def test_only_the_map_is_kept_for_the_backward_pass(self) -> None:
        arguments = layer((1, 16, 30, 40), torch.float32, True)
        leaf = arguments["x"].requires_grad_()
        x = leaf * 1
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
            relu_batch_norm(x, arguments["weight"], arguments["bias"])
        assert [t.data_ptr() for t in kept if t.dim() == 4] == [x.data_ptr()]

    def test_results_outlive_the_calls_that_follow(self) -> None:
        arguments = layer(LARGE, torch.bfloat16, True)
        first = ours(**arguments)
        truth = {name: value.clone() for name, value in first.items()}
        ours(**arguments | {"x": -arguments["x"]})
        assert_same_bits(first, truth)


class TestDeterminism:
    @each_format
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
    @pytest.mark.parametrize("shape", [(2, 17, 67, 131), LARGE], ids=str)
    def test_same_bits_for_any_number_of_threads(
        self, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, threads: Callable[[int], None]
    ) -> None:
        arguments = layer(shape, dtype, channels_last)
        first = ours(**arguments)
        for count in (1, 2, 3):
            threads(count)
            assert_same_bits(ours(**arguments), first)


class TestAutograd:
    @with_and_without_relu
    @each_format
    def test_gradcheck(self, relu: bool, channels_last: bool) -> None:
        # Numbers 0.1 apart and none near 0, so that no step of the check meets the kink.
        x = (torch.randperm(2 * 3 * 4 * 5).reshape(2, 3, 4, 5) / 10 - 4.05).double()
        x = x.contiguous(memory_format=FORMATS[channels_last]).requires_grad_()
        weight = torch.tensor([0.5, -1.5, 2.0]).double().requires_grad_()
        bias = torch.tensor([0.1, 0.0, -3.0]).double().requires_grad_()
        assert torch.autograd.gradcheck(functools.partial(relu_batch_norm, relu=relu), (x, weight, bias))

    def test_backward_twice(self) -> None:
        arguments = layer((2, 7, 5, 9), torch.float32)
        x = arguments["x"].requires_grad_()
        y = relu_batch_norm(x, arguments["weight"], arguments["bias"]).square().sum()
        (first,) = torch.autograd.grad(y, x, retain_graph=True)
        (second,) = torch.autograd.grad(y, x)
        assert torch.equal(first, second)

    def test_a_second_derivative_is_an_error(self) -> None:
        arguments = layer((1, 7, 5, 9), torch.float32)
        x = arguments["x"].requires_grad_()
        y = relu_batch_norm(x, arguments["weight"], arguments["bias"]).square().sum()
        (grad_x,) = torch.autograd.grad(y, x, create_graph=True)
        with pytest.raises(RuntimeError):
            torch.autograd.grad(grad_x.square().sum(), x)


class TestTorchLibrary:
    @each_format
    @each_dtype
    def test_opcheck(self, dtype: torch.dtype, channels_last: bool) -> None:
        arguments = layer((2, 5, 6, 7), dtype, channels_last)
        x, weight, bias, grad_y = arguments.values()
        namespace = torch.ops.dynamicseg
        leaves = [leaf.clone().requires_grad_() for leaf in (x, weight, bias)]
        torch.library.opcheck(namespace.relu_batch_norm, (*leaves, True, 1e-5))
        _, mean, rstd = namespace.relu_batch_norm(x, weight, bias, False, 1e-5)
        torch.library.opcheck(namespace.relu_batch_norm_backward, (grad_y, x, weight, mean, rstd, False))

    def test_compile(self) -> None:
        def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return relu_batch_norm(x * 2, weight, bias).square().sum()

        arguments = layer((2, 6, 11, 9), torch.float32)
        leaves = [arguments[name].requires_grad_() for name in ("x", "weight", "bias")]
        torch.compiler.reset()
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(
            torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(run(*leaves), leaves)
        )

    @each_dtype
    def test_plain_pytorch_where_it_is_chosen(self, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
        arguments = layer((2, 6, 11, 9), dtype, True)
        native = ours(**arguments)
        monkeypatch.setattr(_runtime, "_WANTED", "reference")
        monkeypatch.setattr(_native, "relu_batch_norm", None)
        plain = ours(**arguments)
        for name, part in plain.items():
            assert part.dtype == native[name].dtype
            assert_gradients_close(part, native[name], 2e-2 if dtype == torch.bfloat16 else 1e-4)


def call(
    x: Any = None, weight: Any = None, bias: Any = None, relu: bool = True, eps: float = 1e-5
) -> Callable[[], Tensor]:
    return lambda: relu_batch_norm(
        torch.zeros(2, 3, 4, 5) if x is None else x,
        torch.ones(3) if weight is None else weight,
        torch.zeros(3) if bias is None else bias,
        relu=relu,
        eps=eps,
    )


# A call, and the kind of error, what was passed, and what should have been.
MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str, str]] = {
    "array": (call(np.zeros((1, 3, 3, 4))), TypeError, "x is a ndarray", "torch.Tensor"),
    "3 dimensions": (call(torch.zeros(3, 4, 5)), ValueError, "[3, 4, 5]", "[B, C, H, W]"),
    "no channel": (call(torch.zeros(2, 0, 4, 5)), ValueError, "[2, 0, 4, 5]", "C >= 1"),
    "one value": (call(torch.zeros(1, 3, 1, 1)), ValueError, "[1, 3, 1, 1]", "at least 2 values"),
    "no value": (call(torch.zeros(0, 3, 4, 5)), ValueError, "[0, 3, 4, 5]", "at least 2 values"),
    "float16": (call(torch.zeros(2, 3, 4, 5).half()), TypeError, "torch.float16", "bfloat16"),
    "weight array": (call(weight=np.ones(3)), TypeError, "weight is ndarray", "torch.float32 tensor"),
    "weight float64": (call(weight=torch.ones(3).double()), TypeError, "weight is torch.float64", "torch.float32"),
    "bias bfloat16": (call(bias=torch.ones(3).bfloat16()), TypeError, "bias is torch.bfloat16", "torch.float32"),
    "weight shape": (call(weight=torch.ones(4)), ValueError, "weight has shape [4]", "pass [3]"),
    "bias shape": (call(bias=torch.ones(1, 3)), ValueError, "bias has shape [1, 3]", "pass [3]"),
    "bias elsewhere": (call(bias=torch.ones(3, device="meta")), ValueError, "bias is on meta", "move"),
    "eps": (call(eps=0.0), ValueError, "eps is 0.0", "> 0"),
    "eps nan": (call(eps=NAN), ValueError, "eps is nan", "> 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_say_what_was_passed_and_what_is_wanted(mistake: str) -> None:
    wrong, kind, got, wanted = MISTAKES[mistake]
    with pytest.raises(kind, match=re.escape(got)) as raised:
        wrong()
    text = str(raised.value)
    assert wanted in text
    assert "\n" not in text


@each_format
@pytest.mark.parametrize("column", ["expanded gradient", "every third column"])
def test_one_column_with_any_stride_along_its_width(target: torch.device, channels_last: bool, column: str) -> None:
    """Such a map counts as contiguous whatever its stride is; the kernels must not take it for 1."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(2, 4, 64, 3, generator=generator, dtype=torch.float64).to(target)
    wide = wide.contiguous(memory_format=FORMATS[channels_last])
    x = wide[..., :1].clone(memory_format=FORMATS[channels_last])
    grad_y = torch.ones((), dtype=torch.float64, device=target).expand_as(x)
    if column == "every third column":
        x, grad_y = wide[..., ::3], wide.flip(2)[..., ::3]
    results = []
    for op in (relu_batch_norm, reference.relu_batch_norm):
        leaf = x.detach().requires_grad_()
        weight = torch.linspace(1, 2, 4, dtype=torch.float64, device=target)
        y = op(leaf, weight, torch.zeros_like(weight))
        results.append((y, *torch.autograd.grad(y, leaf, grad_y)))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
