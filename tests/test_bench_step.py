"""What `dynamicseg bench step` promises, without looking at how long anything takes."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from dynamicseg import reference
from dynamicseg.bench import step as bench_step
from dynamicseg.bench import step_competitors, step_table
from dynamicseg.config import configure
from dynamicseg.io import write_json
from dynamicseg.trainer import train_on_image

PARTS = [
    "convolutions, forward",
    "ReLU + batch norm, forward",
    "batch norm + loss",
    "convolutions, backward",
    "ReLU + batch norm, backward",
    "update",
]


def rendered(report: dict[str, Any]) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(step_table.table(report))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """A report whose compiled competitor is traced, but not turned into machine code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        found: dict[str, Any] = bench_step.run(size=(16, 20), channels=8, repeats=2, steps=1, threads=1)
    torch.compiler.reset()
    return found


class TestCompetitors:
    def test_the_steps_are_those_of_the_training_loop(self) -> None:
        image = step_competitors.soft_image((16, 20))
        for loss in ("published", "fused"):
            config = configure("paper", loss=loss, channels=8, max_steps=4, stop_labels=1)
            step = step_competitors.our_step(image, config)
            assert [float(step()) for _ in range(4)] == [one["loss"] for one in train_on_image(image, config).history]

    def test_the_published_step_is_the_paper_step_to_the_bit(self) -> None:
        image, config = step_competitors.soft_image((17, 12)), configure("paper", channels=8)
        published = step_competitors.published_step(image, config)
        ours = step_competitors.our_step(image, config)
        assert [published() for _ in range(6)] == [float(ours()) for _ in range(6)]

    def test_the_loss_of_the_compiled_step_is_the_reference(self) -> None:
        x = torch.randn(1, 7, 9, 11, requires_grad=True)
        found, expected = step_competitors.tensor_loss(x), reference.dynamic_loss(x).loss[0]
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss in (found, expected)))

    def test_image(self) -> None:
        image = step_competitors.soft_image((33, 70))
        assert image.shape == (1, 3, 33, 70)
        assert 0 <= image.min() < image.max() <= 1


class TestReport:
    def test_has_every_competitor_and_part(self, report: dict[str, Any]) -> None:
        names = [result["competitor"] for result in report["results"]]
        assert names == ["published", "paper", "fused", "compiled", "compiled, memory kept"]
        assert list(report["parts"]) == PARTS
        assert report["environment"]["threads"] == 1
        assert report["compiled"]["ok"]

    def test_losses_agree(self, report: dict[str, Any]) -> None:
        by_name = {result["competitor"]: result for result in report["results"]}
        assert by_name["paper"]["losses"] == by_name["published"]["losses"]
        assert len(by_name["paper"]["losses"]) == 4
        assert all(result["first_loss_difference"] < 0.01 for result in report["results"])
        # The compiled one was given its first weights again after it had been compiled.
        assert by_name["compiled"]["losses"][1] != by_name["compiled"]["losses"][0]

    def test_ratios_are_those_of_the_times(self, report: dict[str, Any]) -> None:
        ms = {result["competitor"]: result["ms"]["median"] for result in report["results"]}
        for result in report["results"]:
            own = result["ms"]["median"]
            assert result["speedup_over_published"] == pytest.approx(ms["published"] / own)
            assert result["speedup_over_compiled"] == pytest.approx(ms["compiled"] / own)
            assert result["ms"]["q20"] <= own <= result["ms"]["q80"]

    def test_limit(self, report: dict[str, Any]) -> None:
        limit = report["limit"]
        element = 2 if report["settings"]["precision"] == "bfloat16" else 4
        assert limit["fused_bytes"] == 16 * 20 * 8 * element * (2 * 8 + 7)
        convolutions = sum(report["parts"][part]["median"] for part in PARTS if part.startswith("convolutions"))
        moved = limit["fused_bytes"] / report["copy_gb_per_s"] / 1e6
        assert limit["ms"] == pytest.approx(convolutions + moved)

    def test_table_of_a_gpu(self, report: dict[str, Any]) -> None:
        gpu = json.loads(json.dumps(report))
        gpu["environment"]["gpu"] = "NVIDIA H100"
        ms = {"median": 0.5031, "q20": 0.5, "q80": 0.51}
        gpu["together"] = [{"size": [160, 240], "images": 4, "ms": ms, "ms_per_image": 0.1258}]
        text = rendered(gpu)
        for word in ("NVIDIA H100", "4 of 160x240", "0.503", "0.126"):
            assert word in text

    def test_json_round_trip(self, report: dict[str, Any], tmp_path: Path) -> None:
        write_json(tmp_path / "report.json", report)
        assert json.loads((tmp_path / "report.json").read_text()) == report

    def test_table_fits_100_columns(self, report: dict[str, Any]) -> None:
        slow = json.loads(json.dumps(report))
        for result in slow["results"]:
            result["ms"] = {"median": 12345.6789, "q20": 1234.56789, "q80": 23456.789}
        text = rendered(slow)
        assert max(map(len, text.splitlines())) <= 100
        assert "…" not in text
        for word in ("published", "compiled, memory kept", "batch norm + loss", "the speed of a copy"):
            assert word in text

    def test_a_compiler_that_fails_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def backend(*_: Any) -> Any:
            raise RuntimeError("\nno compiler here\nand more lines")

        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
        told: list[str] = []
        found = bench_step.run(size=(16, 20), channels=8, repeats=1, steps=1, progress=told.append)
        assert not found["compiled"]["ok"]
        assert "\n" not in found["compiled"]["reason"]
        assert "no compiler here" in rendered(found)
        assert [result["speedup_over_compiled"] for result in found["results"]] == [None] * 3
        assert told == ["torch.compile", "round 1 of 1", "parts of the fused step"]
        torch.compiler.reset()

    @pytest.mark.parametrize("wrong", ["paper", "fused"])
    def test_a_wrong_step_is_not_timed(self, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
        right = step_competitors.our_step

        def our_step(image: Tensor, config: Any) -> Any:
            step = right(image, config)
            return (lambda: 1.1 * step()) if (config.loss == "fused") == (wrong == "fused") else step

        monkeypatch.setattr(step_competitors, "our_step", our_step)
        with pytest.raises(RuntimeError, match=f"{wrong} disagrees with the published step"):
            bench_step.run(size=(16, 20), channels=8, repeats=1, steps=1, compile=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (1, 9)}, "size is 1x9"),
        ({"channels": 3}, "channels is 3: pass at least 4"),
        ({"depth": 0}, "depth is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"device": "tpu"}, "device 'tpu'"),
    ],
)
def test_run_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench_step.run(**arguments)
