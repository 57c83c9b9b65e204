"""CUDA on the host, on which kernels are tested without a GPU, does what CUDA does, and reports mistakes."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from typing import Any

import cuda_on_host
import numpy as np
import pytest
from numpy.typing import NDArray

THREADS = 256

Call = Callable[..., str]


@pytest.fixture
def call() -> Iterator[Call]:
    """``call("kernel", ...)``: runs it, with arrays by address; "" or what went wrong."""
    library = cuda_on_host.load("kernels")

    def run(name: str, *arguments: Any) -> str:
        function = getattr(library, name)
        function.restype = ctypes.c_char_p
        by_address = [
            ctypes.c_void_p(argument.ctypes.data) if isinstance(argument, np.ndarray) else argument
            for argument in arguments
        ]
        message: bytes = function(*by_address)
        return message.decode()

    yield run
    cuda_on_host.reset(library)


def seed(number: int) -> None:
    cuda_on_host.set_seed(cuda_on_host.load("kernels"), number)


SEEDS = [0, 1, 2, 3]


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("number", SEEDS)
def test_sums(call: Call, blocks: int, number: int) -> None:
    seed(number)
    values = np.arange(1000, dtype=np.float32)
    sums = np.zeros(blocks)
    assert call("sum", blocks, values, values.size, sums) == ""
    assert sums.sum() == values.sum()


class TestBarriers:
    @pytest.mark.parametrize("number", SEEDS)
    def test_a_barrier_holds_in_any_order(self, call: Call, number: int) -> None:
        seed(number)
        values, neighbours = np.arange(1, THREADS + 1, dtype=np.int32), np.zeros(THREADS, np.int32)
        assert call("neighbours", True, values, neighbours) == ""
        assert np.array_equal(neighbours, np.roll(values, 32))

    def test_a_missing_one_is_uncovered_by_some_order(self, call: Call) -> None:
        values, neighbours = np.arange(1, THREADS + 1, dtype=np.int32), np.zeros(THREADS, np.int32)
        right = []
        for number in range(8):
            seed(number)
            assert call("neighbours", False, values, neighbours) == ""
            right.append((neighbours == np.roll(values, 32)).sum())
        assert min(right) < THREADS
        assert len(set(right)) > 1

    @pytest.mark.parametrize("number", SEEDS)
    def test_votes(self, call: Call, number: int) -> None:
        seed(number)
        votes = np.zeros((THREADS, 3), np.int32)
        assert call("votes", votes) == ""
        assert np.array_equal(votes[:200], np.broadcast_to([100, 0, 1], (200, 3)))

    def test_one_in_two_places_is_reported(self, call: Call) -> None:
        message = call("divergent_barrier", np.zeros(THREADS, np.int32))
        assert re.fullmatch(
            r"block 0: each of threads 0 to 99 waits for the block at kernels\.cu:(\d+), "
            r"each of threads 100 to 255 waits for the block at kernels\.cu:(\d+)",
            message,
        ), message

    def test_the_next_launch_is_none_the_worse(self, call: Call) -> None:
        out = np.zeros(THREADS, np.int32)
        assert call("divergent_barrier", out) != ""
        assert call("reverse", np.arange(4, dtype=np.int32), 4) == ""


class TestWarps:
    @pytest.mark.parametrize("number", SEEDS)
    def test_operations(self, call: Call, number: int) -> None:
        seed(number)
        rows = np.zeros((16, 32), np.int64)
        assert call("warp", rows) == ""
        lane = np.arange(32)

        def all_bits(chosen: NDArray[np.bool_]) -> int:
            return sum(1 << int(i) for i in lane[chosen])

        expected: list[NDArray[np.int64] | int] = [
            np.full(32, 30),
            (lane // 8 * 8 + 3) * 10,
            (lane ^ 5) * 10,
            np.where((lane ^ 9) < lane // 8 * 8 + 8, lane ^ 9, lane),  # a group reads those before it, not those behind
            np.where(lane < 28, lane + 4, lane),
            np.where(lane % 16 < 13, lane + 3, lane),
            np.where(lane % 16 >= 3, lane - 3, lane),
            all_bits(lane % 3 == 0),
            0,
            1,
            np.array([all_bits(lane % 5 == i % 5) for i in lane]),
            int((lane - 20).sum()),
            -20,
            31,
            0b1111111,
            np.where(lane < 16, lane[:16].sum(), lane[16:].sum() * 16),
        ]
        for row, wanted in zip(rows, expected, strict=True):
            assert np.array_equal(row, np.broadcast_to(wanted, 32))

    def test_a_lane_that_never_comes_is_reported(self, call: Call) -> None:
        message = call("missing_lane", np.zeros(64, np.int32))
        assert re.fullmatch(
            r"block 0: each of threads 0 to 31 has ended, each of threads 32 to 36 waits in a shuffle of lanes "
            r"0xffffffff at kernels\.cu:\d+, thread 37 has ended, each of threads 38 to 63 waits in a shuffle .*",
            message,
        ), message

    def test_a_lane_outside_of_the_mask_gives_poison(self, call: Call) -> None:
        out = np.zeros(32, np.float32)
        assert call("outside_of_mask", out) == ""
        assert np.array_equal(out[:8], np.ones(8))
        assert np.isnan(out[8:16]).all()


class TestGrid:
    @pytest.mark.parametrize("number", SEEDS)
    def test_blocks_meet(self, call: Call, number: int) -> None:
        seed(number)
        numbers, sums = np.zeros(4, np.uint32), np.zeros(4, np.uint32)
        assert call("grid", 4, True, numbers, sums, 5) == ""
        assert np.array_equal(numbers, 5 * np.arange(1, 5))
        assert np.array_equal(sums, np.full(4, 10 * (1 + 2 + 3 + 4 + 5)))

    def test_only_where_all_are_on_the_device(self, call: Call) -> None:
        numbers, sums = np.zeros(5, np.uint32), np.zeros(5, np.uint32)
        assert call("grid", 5, True, numbers, sums, 1) == "5 blocks together: the device holds 4"
        assert call("grid", 2, False, numbers, sums, 1).endswith("but the launch is not cooperative")
        cuda_on_host.set_device(cuda_on_host.load("kernels"), multiprocessors=3, cooperative_launch=False)
        assert call("grid", 2, True, numbers, sums, 1) == "2 blocks together: the device holds 0"

    def test_a_block_that_does_not_come_is_reported(self, call: Call) -> None:
        message = call("deserting_block", 3)
        assert re.search(r"waits for the grid at kernels\.cu:\d+, but 1 of 3 blocks have ended without", message)


class TestRest:
    @pytest.mark.parametrize("number", SEEDS)
    def test_atomics(self, call: Call, number: int) -> None:
        seed(number)
        count, bits, arrived = (np.zeros(1, np.uint32) for _ in range(3))
        most, last = np.zeros(1, np.uint64), np.zeros(1, np.int32)
        assert call("atomics", 7, count, bits, most, arrived, last) == ""
        assert (count[0], bits[0], most[0], last[0]) == (7 * THREADS, 0xFFFFFFFF, 6255, 1)

    def test_dynamic_shared_memory(self, call: Call) -> None:
        values = np.arange(200, dtype=np.int32)
        assert call("reverse", values, 200) == ""
        assert np.array_equal(values, np.arange(200)[::-1])
        first = np.zeros(1, np.float32)
        assert call("first_shared", first, 1, 4) == ""
        assert np.isnan(first[0])  # nobody has written it

    def test_launches_that_no_device_takes(self, call: Call) -> None:
        first = np.zeros(1, np.float32)
        assert "1 blocks of 2000 threads cannot be launched" in call("first_shared", first, 2000, 4)
        assert "60000 bytes of shared memory" in call("first_shared", first, 1, 60_000)

    def test_the_device_can_be_chosen(self, call: Call) -> None:
        library = cuda_on_host.load("kernels")
        blocks = np.zeros(1, np.int32)
        assert call("resident", blocks) == ""
        assert blocks[0] == 4
        cuda_on_host.set_device(library, multiprocessors=7, blocks_per_multiprocessor=3)
        assert call("resident", blocks) == ""
        assert blocks[0] == 21
