"""`make gpu-check` where there is no GPU: it says so, and a dry run goes the same way on the CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gpu_check
import gpu_check_parts as parts
import pytest
import torch

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> parts.Check:
    monkeypatch.setattr(gpu_check, "WORK", tmp_path)
    return parts.Check(gpu_check.ROOT, tmp_path, Path(sys.executable), "cpu", None, False, True, None)


def part(commands: list[list[str]], limit: float = 60, **changes: Any) -> parts.Part:
    def read(_: parts.Check, log: Path, status: int | None) -> parts.Found:
        return {"passed": True, "what": log.read_text().splitlines()[-1]}

    fields: dict[str, Any] = {"name": "one", "needs": (), "read": read, "limit": limit, "quick_limit": limit} | changes
    return parts.Part(commands=lambda _: commands, **fields)


class TestRun:
    def test_dry_run(self, tmp_path: Path, check: parts.Check, capsys: pytest.CaptureFixture[str]) -> None:
        report_path = tmp_path / "report.json"
        assert gpu_check.main(["--dry-run", "--parts", "memcheck,loss", "--json", str(report_path)]) == 0
        report = json.loads(report_path.read_text())
        assert list(report["parts"]) == ["memcheck", "loss"]
        loss = report["parts"]["loss"]
        assert (loss["verdict"], loss["report"]["benchmark"]) == ("passed", "loss")
        assert "times eager" in capsys.readouterr().out.splitlines()[-3]
        gpu_check.main(["--dry-run", "--parts", "memcheck", "--json", str(report_path)])
        assert json.loads(report_path.read_text())["parts"]["loss"] == loss  # of the run before

    @without_gpu
    def test_without_a_gpu(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert gpu_check.main([]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "finds no NVIDIA GPU here" in line

    @pytest.mark.parametrize(
        ("arguments", "message"), [(["--parts", "lint"], "no part lint"), (["--data", "/nowhere"], "no folder bsds500")]
    )
    def test_wrong_calls(self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_:
            gpu_check.main(["--dry-run", *arguments])
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err


class TestPart:
    def test_passes(self, check: parts.Check) -> None:
        found = gpu_check.run_part(part([["echo", "a"], ["echo", "b"]]), check, [], None)
        assert (found["verdict"], found["what"]) == ("passed", "b")

    def test_fails_with_the_first_command_that_does(self, check: parts.Check) -> None:
        found = gpu_check.run_part(part([["false"], ["echo", "never"]]), check, [], None)
        assert found["verdict"] == "failed"
        assert found["log"] == ["$ false"]

    def test_a_program_that_is_not_there(self, check: parts.Check) -> None:
        assert gpu_check.run_part(part([["/no/such/program"]]), check, [], None)["verdict"] == "failed"

    def test_time_limit(self, check: parts.Check) -> None:
        found = gpu_check.run_part(part([["sleep", "60"]], limit=1), check, [], None)
        assert found["verdict"] == "time limit"
        assert found["seconds"] < 30

    def test_an_outcome_that_cannot_be_read(self, check: parts.Check) -> None:
        def read(*_: Any) -> parts.Found:
            raise KeyError("kernels")

        found = gpu_check.run_part(part([["true"]], read=read), check, [], None)
        assert (found["verdict"], found["what"]) == ("failed", "KeyError: 'kernels'")

    def test_left_out(self, check: parts.Check) -> None:
        found = gpu_check.run_part(part([], needs=("skimage",)), check, ["skimage"], None)
        assert (found["verdict"], found["what"]) == ("left out", "missing: scikit-image")
        assert gpu_check.run_part(part([], tool="no-such-tool"), check, [], None)["verdict"] == "left out"
        assert gpu_check.run_part(part([]), check, [], 0.0)["what"] == "no time is left"


class TestOutcomes:
    @pytest.mark.parametrize(
        ("text", "passed", "clean"),
        [
            ('{"backend": 1}\n========= ERROR SUMMARY: 0 errors', True, True),
            ('{"backend": 1}\n========= ERROR SUMMARY: 3 errors', False, False),
            ('{"backend": 1}\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)', True, True),
            ('{"backend": 1}\n========= RACECHECK SUMMARY: 10 hazards displayed (10 errors)', False, False),
            ("========= ERROR SUMMARY: 0 errors", False, True),  # the ops did not come to their end
            ("========= Error: Device not supported", False, None),
        ],
    )
    def test_sanitizer(self, check: parts.Check, text: str, passed: bool, clean: bool | None) -> None:
        log = check.work / "memcheck.log"
        log.write_text(text)
        found = parts._read_sanitized(check, log, 0)
        assert (found["passed"], found["clean"]) == (passed, clean)

    def test_tests(self, check: parts.Check) -> None:
        check.output("tests", "xml").write_text(
            """<testsuites><testsuite>
            <testcase classname="a" name="b"/><testcase classname="a" name="c"><skipped message="no"/></testcase>
            <testcase classname="a" name="d"><failure message="wrong">long</failure></testcase>
            <testcase classname="" name="tests.test_io"><error message="collection failure">
            E   ModuleNotFoundError: No module named 'hypothesis'</error></testcase>
            </testsuite></testsuites>"""
        )
        found = parts._read_tests(check, Path("log"), 1)
        assert not found["passed"]
        assert found["what"] == "1 failed, 1 passed, 1 skipped, 1 files left out"
        assert found["failures"] == [{"test": "a::d", "message": "wrong"}]
        assert found["left_out"] == ["tests.test_io: hypothesis is missing"]

    @pytest.mark.parametrize(("second", "unequal", "passed"), [("x", [], True), ("y", [], False), ("x", ["op"], False)])
    def test_repeatable(self, check: parts.Check, second: str, unequal: list[str], passed: bool) -> None:
        log = check.work / "log"
        runs = [{"backend": "", "cases": 1, "digest": digest, "unequal": unequal} for digest in ("x", second)]
        log.write_text("".join(json.dumps(one) + "\n" for one in runs))
        assert parts._read_repeatable(check, log, 0)["passed"] is passed


def test_each_part_needs_what_can_be_named() -> None:
    assert {module for one in parts.PARTS for module in one.needs} <= set(gpu_check.MODULES)


def test_parts_of_another_commit_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"machine": {}, "commit": "a", "parts": {"loss": {}}}))
    expected: dict[str, dict[str, Any]] = {"a": {"loss": {}}, "b": {}}
    for commit, kept in expected.items():
        report: dict[str, Any] = {"machine": {}, "commit": commit, "parts": {}}
        gpu_check.keep_earlier(report, path, ["build"])
        assert report["parts"] == kept
