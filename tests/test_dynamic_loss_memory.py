"""``ops.dynamic_loss`` reads maps where they lie, keeps to the memory it needs, and gives the same bits each time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from dynamic_loss_cases import (
    FORMATS,
    RunPython,
    Way,
    assert_same_bits,
    blocks,
    each_dtype,
    each_format,
    each_way,
    holes,
    response_map,
)
from gradients import assert_gradients_close
from torch import Tensor

from dynamicseg import _native
from dynamicseg.ops import _runtime, dynamic_loss, dynamic_loss_and_grad

# A view of a map [2, 20, 24, 30], and the formats of the map in which it is read where it lies.
VIEWS: dict[str, tuple[Callable[[Tensor], Tensor], set[bool]]] = {
    "crop": (lambda x: x[:, :, 3:-2, 2:-5], {False, True}),
    "some channels": (lambda x: x[:, 2:9], {False, True}),
    "one channel": (lambda x: x[:, 3:4], {False, True}),
    "one column": (lambda x: x[..., 4:5], {False, True}),
    "last image": (lambda x: x[1:], {False, True}),
    "expanded images": (lambda x: x[:1].expand(3, -1, -1, -1), {False, True}),
    "expanded rows": (lambda x: x[:, :, :1].expand(-1, -1, 9, -1), {False, True}),
    "expanded columns": (lambda x: x[..., :1].expand(-1, -1, -1, 9), {True}),
    "expanded channels": (lambda x: x[:, :1].expand(-1, 9, -1, -1), {False}),
    "every second row": (lambda x: x[:, :, ::2], {False, True}),
    "every second pixel": (lambda x: x[:, :, ::2, ::2], {True}),
    "every second channel": (lambda x: x[:, ::2], {False}),
    "transposed": (lambda x: x.transpose(2, 3), {True}),
    "channels and rows exchanged": (lambda x: x.transpose(1, 2), {False}),
    "flipped": (lambda x: x.flip(2, 3), {False, True}),
}


class TestMemory:
    @each_way
    @each_dtype
    @each_format
    @pytest.mark.parametrize("view", VIEWS)
    def test_views_are_read_where_they_lie(
        self, way: Way, view: str, dtype: torch.dtype, channels_last: bool, calls: list[dict[str, Any]]
    ) -> None:
        make, read_in_place = VIEWS[view]
        x = make(response_map((2, 20, 24, 30), dtype, channels_last))
        mask = holes(x.shape)
        actual = way(x, mask)
        addresses = {call["x"] for call in calls}
        assert (addresses == {x.data_ptr()}) == (channels_last in read_in_place)
        dense = x.contiguous(memory_format=FORMATS[calls[0]["format"] == "channels_last" and x.shape[1] > 1])
        assert_same_bits(actual, way(dense, mask))

    @each_way
    @each_dtype
    def test_maps_at_odd_addresses(self, way: Way, target: torch.device, dtype: torch.dtype) -> None:
        x = response_map((1, 7, 9, 11), dtype).to(target)
        shifted = torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x)
        assert_same_bits(way(shifted), way(x))

    @each_way
    @each_format
    def test_strides_above_32_bits(self, way: Way, target: torch.device, channels_last: bool) -> None:
        far = 2**31 + 100
        try:
            memory = torch.empty(2 * far + 200, dtype=torch.bfloat16, device=target)  # hardly any of it is touched
        except RuntimeError:
            pytest.skip("the system does not lend so much memory")
        shape, strides = ((1, 5, 3, 7), (0, 1, far, 5)) if channels_last else ((1, 3, 5, 7), (0, far, 7, 1))
        x = memory.as_strided(shape, strides)
        x.copy_(response_map(shape, torch.bfloat16, channels_last))
        assert_same_bits(way(x), way(x.contiguous(memory_format=FORMATS[channels_last])))

    @each_way
    def test_lazily_negated_maps(self, way: Way, device: torch.device) -> None:
        x = torch.randn(1, 5, 6, 7, dtype=torch.complex64, device=device).conj().imag
        assert x.is_neg()
        assert_same_bits(way(x), way(x.resolve_neg().contiguous()))

    @each_way
    @each_dtype
    @each_format
    @pytest.mark.parametrize("shape", [(2, 7, 5, 9), (1, 100, 110, 210)], ids=["small", "large"])
    def test_gradient_is_in_the_format_and_type_of_the_map(
        self, way: Way, device: torch.device, shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool
    ) -> None:
        x = response_map(shape, dtype, channels_last).to(device)
        actual = way(x)
        assert actual.grad_x.dtype == dtype
        assert actual.grad_x.stride() == x.stride()

    @each_dtype
    def test_types_of_the_output(self, device: torch.device, dtype: torch.dtype) -> None:
        output = dynamic_loss(response_map((2, 7, 5, 9), dtype).to(device))
        statistic = torch.float64 if dtype == torch.float64 else torch.float32
        assert [getattr(output, name).dtype for name in ("loss", "similarity", "continuity")] == [statistic] * 3
        assert output.weight.dtype == statistic
        assert output.labels.dtype == output.label_counts.dtype == torch.int64
        assert output.labels.shape == (2, 5, 9)
        assert {tuple(part.shape) for part in output[:5]} == {(2,)}
        assert all(part.device.type == device.type for part in output)

    def test_gradients_outlive_the_calls_that_follow(self) -> None:
        # Memory of large results is used again: only once nobody holds it any more.
        x = response_map((1, 64, 130, 130))
        _, first = dynamic_loss_and_grad(x)
        truth = first.clone()
        part = first[:, 3]
        _, second = dynamic_loss_and_grad(-x)
        assert torch.equal(first, truth)
        assert not torch.equal(second, truth)
        del first, second
        _, third = dynamic_loss_and_grad(-x)
        assert torch.equal(part, truth[:, 3])
        del part, third
        for _ in range(3):
            assert torch.equal(dynamic_loss_and_grad(x)[1], truth)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
    def test_peak_is_the_gradient_and_the_labels(self, run_python: RunPython) -> None:
        script = """
import torch
from dynamicseg.ops import dynamic_loss, dynamic_loss_and_grad

def resident(line):
    with open("/proc/self/status") as status:
        return next(int(text.split()[1]) * 1024 for text in status if text.startswith(line))

def run(x):
    grad_x, = torch.autograd.grad((output := dynamic_loss(x)).loss.sum(), x)
    return output, grad_x

run(torch.randn(1, 100, 30, 40, requires_grad=True))
x = torch.randn(1, 100, 321, 481, requires_grad=True)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = resident("VmRSS")
output, grad_x = run(x)
print((resident("VmHWM") - before) / (grad_x.nbytes + output.labels.nbytes))
"""
        done = run_python(script)
        if "PermissionError" in done.stderr:
            pytest.skip("the system does not let a process reset its peak memory")
        assert done.returncode == 0, done.stderr
        # Less than 1 would mean that the gradient was not measured.
        assert 0.9 < float(done.stdout) < 1.1

    def test_no_gradient_is_computed_where_none_is_wanted(
        self, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def backward(_: _native.DynamicLossParams) -> None:
            raise AssertionError("a gradient was computed")

        monkeypatch.setattr(_native, "dynamic_loss_backward", backward)
        x = response_map((1, 7, 5, 9))
        assert not dynamic_loss(x).loss.requires_grad
        with torch.no_grad():
            assert not dynamic_loss(x.requires_grad_()).loss.requires_grad
        assert dynamic_loss(x).loss.requires_grad
        assert [call["grad_x"] for call in calls] == [0, 0, 0]
        with pytest.raises(AssertionError, match="a gradient was computed"):
            torch.autograd.grad(dynamic_loss(x).loss, x)


class TestDeterminism:
    @each_way
    @each_format
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
    @pytest.mark.parametrize("shape", [(2, 17, 67, 131), (1, 90, 120, 211)], ids=str)
    def test_same_bits_for_any_number_of_anyones_threads(
        self,
        way: Way,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        channels_last: bool,
        threads: Callable[[int], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        x, mask = response_map(shape, dtype, channels_last), holes(shape)
        superpixels = blocks(shape)
        first, first_united = way(x, mask), way(x, mask, superpixels=superpixels)
        for _ in range(3):
            assert_same_bits(way(x, mask), first)
        for openmp in (True, False):
            if not openmp:
                monkeypatch.setattr(_runtime, "openmp_parallel", lambda: 0)
                _native.set_threads(1, 0)
            for count in (1, 2, 3):
                threads(count)
                assert_same_bits(way(x, mask), first)
                assert_same_bits(way(x, mask, superpixels=superpixels), first_united)
                assert _native.thread_count() == count
                assert _native.uses_openmp() == (openmp and _runtime.openmp_parallel() != 0)

    @each_format
    def test_a_batch_is_its_images_one_by_one(self, target: torch.device, channels_last: bool) -> None:
        x = response_map((3, 20, 31, 47), channels_last=channels_last).to(target)
        mask = holes(x.shape).to(target)
        output, grad_x = dynamic_loss_and_grad(x, mask=mask)
        for image in range(3):
            one = slice(image, image + 1)
            alone, grad_alone = dynamic_loss_and_grad(x[one], mask=mask[one])
            for together, single in zip(output, alone, strict=True):
                assert torch.equal(together[one], single)
            assert_gradients_close(grad_x[one] * 3, grad_alone, 1e-6)

    @each_way
    def test_two_python_threads_at_once(self, way: Way) -> None:
        maps = [response_map((1, 30, 40 + i, 50), channels_last=i == 1) for i in range(2)]
        expected = [way(x) for x in maps]
        start = threading.Barrier(len(maps))
        failures: list[BaseException] = []

        def work(index: int) -> None:
            try:
                start.wait()
                for _ in range(30):
                    assert_same_bits(way(maps[index]), expected[index])
            except BaseException as failure:
                failures.append(failure)

        workers = [threading.Thread(target=work, args=(index,)) for index in range(len(maps))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not failures
