"""What `dynamicseg.bench` promises, without looking at how long anything takes."""

from __future__ import annotations

import functools
import io
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from dynamicseg import reference
from dynamicseg.bench import environment as env
from dynamicseg.bench import loss as bench_loss
from dynamicseg.bench import loss_table, published, timing
from dynamicseg.bench.published import PublishedLoss
from dynamicseg.io import write_json
from dynamicseg.weighting import WEIGHTINGS, Weighting

SHAPE = (1, 7, 9, 11)


class TestCompare:
    def test_every_round_calls_each_case_and_begins_with_another(self) -> None:
        calls: list[str] = []
        cases = {name: lambda _, name=name: calls.append(name) for name in "abc"}
        timing.compare(cases, repeats=3, warmup=1)
        assert [calls[k : k + 3] for k in range(0, 12, 3)] == [list("abc"), list("bca"), list("cab"), list("abc")]

    @pytest.mark.parametrize("input_sets", [2, 3, 5])
    def test_input_sets_take_turns(self, input_sets: int) -> None:
        seen: list[int] = []
        timing.compare({"a": seen.append, "b": seen.append}, repeats=6, input_sets=input_sets)
        assert set(seen) == set(range(input_sets))
        assert all(first != second for first, second in itertools.pairwise(seen))

    def test_warmup_is_not_measured(self) -> None:
        found = timing.compare({"a": lambda _: None}, repeats=4, warmup=2)
        assert len(found["a"].milliseconds) == 4
        assert min(found["a"].milliseconds) >= 0

    def test_synchronises_around_each_call(self) -> None:
        events: list[str] = []
        timing.compare(
            {"a": lambda _: events.append("call")},
            repeats=2,
            warmup=0,
            synchronize=lambda: events.append("wait"),
        )
        assert events == ["wait", "call", "wait"] * 2

    def test_another_clock(self) -> None:
        indices: list[int] = []

        def clock(case: timing.Case, index: int) -> float:
            case(index)
            return 0.002

        found = timing.compare({"a": indices.append}, repeats=2, warmup=1, input_sets=2, clock=clock)
        assert found["a"].milliseconds == (2.0, 2.0)
        assert indices == [0, 1, 0]

    def test_stopwatch(self) -> None:
        stopwatch = timing.Stopwatch()

        def work() -> None:
            for name in "aba":
                with stopwatch.part(name):
                    pass

        for _ in range(2):
            assert list(stopwatch.milliseconds(work)) == ["a", "b"]

    def test_progress(self) -> None:
        told: list[tuple[int, int]] = []
        timing.compare({"a": lambda _: None}, repeats=2, warmup=1, progress=lambda done, of: told.append((done, of)))
        assert told == [(1, 3), (2, 3), (3, 3)]

    @pytest.mark.parametrize(("name", "value"), [("repeats", 0), ("warmup", -1), ("input_sets", 0)])
    def test_refuses_counts(self, name: str, value: int) -> None:
        with pytest.raises(ValueError, match=name):
            timing.compare({}, **dict[str, Any]({"repeats": 1, name: value}))

    def test_quantiles(self) -> None:
        found = timing.Timing(tuple(float(ms) for ms in range(11)))
        assert found.as_dict() == {"median": 5.0, "q20": 2.0, "q80": 8.0}


class TestMemory:
    def test_copy_case_copies_the_whole_buffer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        copied: list[int] = []
        copy_ = torch.Tensor.copy_

        def spy(to: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
            copied.append(source.nbytes)
            assert to.data_ptr() != source.data_ptr()
            return copy_(to, source)

        case = timing.copy_case(1000, input_sets=1)
        monkeypatch.setattr(torch.Tensor, "copy_", spy)
        for index in range(2):
            case(index)
        assert copied == [1000, 1000]

    def test_bandwidth_counts_reads_and_writes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(timing, "compare", lambda *_, **__: {"copy": timing.Timing((2.0,))})
        assert timing.copy_bandwidth(1_000_000) == pytest.approx(1.0)  # 2 MB in 2 ms

    @pytest.mark.parametrize(("nbytes", "sets"), [(1, 16), (62_000_000, 4), (10**9, 2)])
    def test_rotation(self, nbytes: int, sets: int) -> None:
        assert timing.rotation(nbytes) == sets

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_peak_memory_of_a_call_in_a_fresh_process(self) -> None:
        arguments = {
            "shape": (1, 16, 400, 500),
            "dtype": "float32",
            "layout": "channels_last",
            "threads": 1,
            "which": "forward+backward",
            "name": "fused, one call",
        }
        map_bytes = 16 * 400 * 500 * 4
        # The gradient and less than another map of temporary values.
        assert map_bytes <= timing.peak_memory("dynamicseg.bench.loss:prepare", arguments) < 2 * map_bytes

    def test_peak_memory_says_why_not(self) -> None:
        with pytest.raises(RuntimeError, match="no_such_function"):
            timing.peak_memory("dynamicseg.bench.loss:no_such_function", {})


class TestEnvironment:
    def test_is_json_and_complete(self) -> None:
        found = env.environment()
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found["threads"] == torch.get_num_threads()
        assert found["cores"] >= 1
        assert found["cpu"]
        assert found["date"].endswith("+00:00")

    def test_cpu_name(self, tmp_path: Path) -> None:
        (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: A Fast One\nmodel name\t: Another\n")
        assert env.cpu_name(tmp_path / "cpuinfo") == "A Fast One"
        assert env.cpu_name(tmp_path / "none")

    def test_no_commit_outside_our_own_checkout(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(env, "_SOURCE", tmp_path)
        assert env.git_commit() is None
        assert env.git_dirty() is None

    def test_commit_without_git(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert env.git_commit() is None


class TestPublishedForm:
    @pytest.mark.parametrize("layout", bench_loss.LAYOUTS)
    @pytest.mark.parametrize("weighting", WEIGHTINGS)
    @pytest.mark.parametrize("batch", [1, 3])
    def test_is_the_reference(self, weighting: Weighting, layout: str, batch: int) -> None:
        (x,) = bench_loss.response_maps((batch, 7, 9, 11), "float32", layout, 1)
        found = published.over_batch(PublishedLoss(weighting))(x)
        expected = reference.dynamic_loss(x, weighting=weighting).loss.mean()
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (found, expected)))

    def test_mu(self) -> None:
        (x,) = bench_loss.response_maps(SHAPE, "float32", "contiguous", 1)
        expected = reference.dynamic_loss(x, weighting="scf", mu=7.0).loss[0]
        torch.testing.assert_close(PublishedLoss("scf", 7.0)(x), expected)


class TestCompetitors:
    @pytest.mark.parametrize("dtype", bench_loss.DTYPES)
    @pytest.mark.parametrize("layout", bench_loss.LAYOUTS)
    @pytest.mark.parametrize("batch", [1, 2])
    def test_all_agree(self, dtype: str, layout: str, batch: int) -> None:
        (x,) = bench_loss.response_maps((batch, *SHAPE[1:]), dtype, layout, 1)
        found = bench_loss.checked_agreement(x, published.over_batch(PublishedLoss()), "here")
        assert set(found) == {"eager", "compiled", "fused", "fused, one call"}
        for name, difference in found.items():
            assert difference["gradient_cosine"] == pytest.approx(1, abs=1e-3), name
            assert difference["loss_difference"] < (1e-5 if dtype == "float32" else 1e-2), name

    @pytest.mark.parametrize("layout", bench_loss.LAYOUTS)
    def test_maps_lie_as_asked(self, layout: str) -> None:
        maps = bench_loss.response_maps((2, 5, 4, 3), "bfloat16", layout, 2)
        for x in maps:
            assert x.is_leaf
            assert x.requires_grad
            assert x.is_contiguous(memory_format=bench_loss.LAYOUTS[layout])
        assert not torch.equal(*maps)

    def test_calls_leave_no_gradient(self) -> None:
        maps = bench_loss.response_maps(SHAPE, "float32", "contiguous", 2)
        for case in bench_loss.cases(maps, None).values():
            case(1)
            assert maps[1].grad is None

    def test_a_wrong_fused_loss_is_not_timed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bench_loss, "fused_loss", lambda: lambda x: 1.01 * PublishedLoss()(x))
        with pytest.raises(RuntimeError, match=r"fused disagrees.*float32 contiguous"):
            bench_loss.run(size=(8, 9), channels=5, dtypes=["float32"], layouts=["contiguous"], compile=False)


class TestCompiled:
    @pytest.fixture(autouse=True)
    def _reset(self) -> Any:
        yield
        torch.compiler.reset()

    def test_compiles(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Tracing is real; machine code is not made, which would take long and need a C++ compiler.
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        maps = bench_loss.response_maps(SHAPE, "float32", "channels_last", 2)
        compiled = published.compiled_loss(maps)
        assert compiled.reason is None
        assert compiled.loss is not None
        assert compiled.graphs
        torch.testing.assert_close(compiled.loss(maps[0]), PublishedLoss()(maps[0]))
        assert maps[0].grad is None

    def test_failure_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def backend(*_: Any) -> Any:
            raise RuntimeError("\nno compiler here\nand more lines")

        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
        report = bench_loss.run(size=(8, 9), channels=5, dtypes=["float32"], layouts=["contiguous"], repeats=1)
        (entry,) = report["maps"]
        assert not entry["compiled"]["ok"]
        assert "no compiler here" in entry["compiled"]["reason"]
        assert "\n" not in entry["compiled"]["reason"]
        assert "compiled" not in entry["agreement"]
        assert all(result["speedup_over_compiled"] is None for result in entry["results"])
        assert "no compiler here" in rendered(report)

    def test_a_compiler_that_is_switched_off_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "compile", lambda module: module)
        compiled = published.compiled_loss(bench_loss.response_maps(SHAPE, "float32", "contiguous", 1))
        assert compiled.loss is None
        assert "switched off" in str(compiled.reason)


def rendered(report: dict[str, Any]) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(loss_table.table(report))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """A report with a compiled competitor, which is the published form once more."""
    with pytest.MonkeyPatch.context() as patch:
        loss = published.over_batch(PublishedLoss())
        patch.setattr(bench_loss, "compiled_loss", lambda _: published.Compiled(loss, None, 1.5, 2, 1))
        found: dict[str, Any] = bench_loss.run(size=(12, 10), channels=6, batch=2, repeats=2, threads=1)
        return found


class TestReport:
    def test_has_every_case(self, report: dict[str, Any]) -> None:
        assert [(entry["dtype"], entry["layout"]) for entry in report["maps"]] == [
            ("float32", "channels_last"),
            ("float32", "contiguous"),
            ("bfloat16", "channels_last"),
            ("bfloat16", "contiguous"),
        ]
        for entry in report["maps"]:
            assert [(result["pass"], result["competitor"]) for result in entry["results"]] == [
                ("forward", "eager"),
                ("forward", "compiled"),
                ("forward", "fused"),
                ("forward+backward", "eager"),
                ("forward+backward", "compiled"),
                ("forward+backward", "fused"),
                ("forward+backward", "fused, one call"),
            ]
            assert set(entry["agreement"]) == {"eager", "compiled", "fused", "fused, one call"}

    def test_ratios_are_those_of_the_times(self, report: dict[str, Any]) -> None:
        for entry in report["maps"]:
            ms = {(result["pass"], result["competitor"]): result["ms"]["median"] for result in entry["results"]}
            copy = entry["copy"]
            assert copy["gb_per_s"] == pytest.approx(2 * entry["map_bytes"] / copy["ms"]["median"] / 1e6)
            for result in entry["results"]:
                own, which = result["ms"]["median"], result["pass"]
                moved = entry["map_bytes"] * (1 if which == "forward" else 2)
                assert result["speedup_over_eager"] == pytest.approx(ms[which, "eager"] / own)
                assert result["speedup_over_compiled"] == pytest.approx(ms[which, "compiled"] / own)
                assert result["gb_per_s"] == pytest.approx(moved / own / 1e6)
                assert result["times_limit"] == pytest.approx(copy["gb_per_s"] / result["gb_per_s"])
                assert result["ms"]["q20"] <= own <= result["ms"]["q80"]

    def test_sizes(self, report: dict[str, Any]) -> None:
        assert [entry["map_bytes"] for entry in report["maps"]] == [5760, 5760, 2880, 2880]

    def test_nothing_of_a_gpu_on_the_cpu(self, report: dict[str, Any]) -> None:
        assert report["copy_bandwidth"] is None
        results = [result for entry in report["maps"] for result in entry["results"]]
        assert all(result["wall_ms"] is result["times_large_limit"] is None for result in results)

    def test_threads_are_set_and_put_back(self, report: dict[str, Any]) -> None:
        assert report["environment"]["threads"] == 1
        before = torch.get_num_threads()
        with timing.threads_set_to(before + 1):
            assert torch.get_num_threads() == before + 1
        assert torch.get_num_threads() == before

    def test_json_round_trip(self, report: dict[str, Any], tmp_path: Path) -> None:
        write_json(tmp_path / "report.json", report)
        assert json.loads((tmp_path / "report.json").read_text()) == report

    def test_table_fits_100_columns(self, report: dict[str, Any]) -> None:
        text = rendered(report)
        assert max(map(len, text.splitlines())) <= 100
        assert "…" not in text
        for word in ("fused, one call", "forward+backward", "bfloat16 contiguous", "peak MB", "compiled"):
            assert word in text

    def test_table_of_a_gpu(self, report: dict[str, Any]) -> None:
        gpu = json.loads(json.dumps(report))
        gpu["settings"]["device"], gpu["environment"]["gpu"] = "cuda", "NVIDIA H100"
        gpu["copy_bandwidth"] = {
            "large": {"bytes": 1 << 30, "gb_per_s": 3000.0},
            "l2": {"bytes": 12e6, "gb_per_s": 5e3},
        }
        for entry in gpu["maps"]:
            for result in entry["results"]:
                result |= {"wall_ms": {"median": 0.0815, "q20": 0.08, "q80": 0.09}, "times_large_limit": 1.4}
                result["ms"] = {"median": 0.0213, "q20": 0.0211, "q80": 0.0219}
            entry["results"][-1]["competitor"] = bench_loss.COOPERATIVE
        text = rendered(gpu)
        assert max(map(len, text.splitlines())) <= 100
        assert "…" not in text
        for word in ("NVIDIA H100", "3000 GB/s", "fused, cooperative", "21.1 - 21.9", "81.5", "wall us"):
            assert word in text

    def test_table_fits_with_long_times(self, report: dict[str, Any]) -> None:
        slow = json.loads(json.dumps(report))
        for result in slow["maps"][0]["results"]:
            result["ms"] = {"median": 12345.6789, "q20": 1234.56789, "q80": 23456.789}
            result["times_limit"] = result["speedup_over_eager"] = result["speedup_over_compiled"] = 12345.6789
            result["peak_memory_bytes"] = 1_234_000_000
        assert "…" not in rendered(slow)

    def test_options_where_asked_for(self, report: dict[str, Any]) -> None:
        assert all(entry["options"] is None for entry in report["maps"])
        found = bench_loss.run(size=(12, 10), channels=6, repeats=2, compile=False, options=True)
        names = ["base", "huber", "diagonals", "label floor", "scribbles", "guide", "all"]
        for entry in found["maps"]:
            by_pass: dict[str, list[dict[str, Any]]] = {"forward+backward": [], "one call": []}
            for result in entry["options"]:
                by_pass[result["pass"]].append(result)
            for results in by_pass.values():
                assert [result["option"] for result in results] == names
                base = results[0]["ms"]["median"]
                for result in results:
                    assert result["times_base"] == pytest.approx(result["ms"]["median"] / base)
        text = rendered(found)
        assert max(map(len, text.splitlines())) <= 100
        assert "times base" in text
        for name in names:
            assert name in text

    def test_peak_memory_where_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bench_loss, "peak_memory", lambda *_: 5_000_000)
        report = bench_loss.run(
            size=(8, 9), channels=5, dtypes=["float32"], layouts=["contiguous"], repeats=1, compile=False, memory=True
        )
        (entry,) = report["maps"]
        assert {result["peak_memory_bytes"] for result in entry["results"]} == {5_000_000}

    def test_progress(self) -> None:
        told: list[str] = []
        bench_loss.run(
            size=(8, 9),
            channels=5,
            dtypes=["float32"],
            layouts=["contiguous"],
            repeats=1,
            compile=False,
            progress=told.append,
        )
        assert told[0] == "float32 contiguous: inputs"
        assert told[-1] == "float32 contiguous: round 2 of 2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (1, 9)}, "size is 1x9"),
        ({"size": (9, 9, 9)}, "size is 9x9x9"),
        ({"channels": 0}, "channels is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"dtypes": ["float16"]}, "dtypes is float16: choose from float32, bfloat16"),
        ({"layouts": []}, "layouts is empty"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"device": "cuda", "memory": True}, "cuda|memory"),
    ],
)
def test_run_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench_loss.run(**arguments)
