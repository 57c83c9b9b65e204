"""The compiled module on processors that this one is not: emulated ones, without AVX-512 and without any AVX."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("plain_kernels.py")
EMULATOR = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
ON_X86 = platform.machine() == "x86_64"
x86_only = pytest.mark.skipif(not ON_X86, reason="x86-64 only")


def run(instruction_set: str, *emulator: str) -> dict[str, Any]:
    flags = ["-P"] if sys.version_info >= (3, 11) else []
    done = subprocess.run(
        [*emulator, sys.executable, *flags, str(SCRIPT), instruction_set],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=SCRIPT.parent,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@x86_only
@pytest.mark.skipif(EMULATOR is None, reason="there is no qemu-x86_64 (apt install qemu-user-static)")
@pytest.mark.parametrize(
    ("processor", "available"), [("Nehalem", ["baseline"]), ("Haswell", ["avx2", "baseline"])], ids=str
)
def test_kernels_on_another_processor_give_the_same(processor: str, available: list[str]) -> None:
    here = run("baseline")["results"]
    for instruction_set in available:
        there = run(instruction_set, str(EMULATOR), "-cpu", processor)
        assert there["available"] == available
        for op, outputs in there["results"].items():
            for name, values in outputs.items():
                assert values == pytest.approx(here[op][name], rel=2e-5, abs=2e-6), (op, name)
        assert len(set(here["felzenszwalb"]["segments"])) > 1


# Encoded with a VEX or EVEX prefix, which a processor without AVX does not know; and what else came with AVX2.
NEW = re.compile(
    r"(v(?!err|erw|mcall)\w+|k(mov|or|and|xn?or|not|shift|unpck|add|test)\w+|mulx|pdep|pext|[sr][ah][lr]?[lr]x)"
)
NAMED = re.compile(r"[0-9a-f]+ <(.+)>:")
INSTRUCTION = re.compile(r"\s+[0-9a-f]+:\s+(?:data16 )?(\w+)")
# A function of one of these namespaces, or a lambda in one; not a function of the standard library for their types,
# which the linker may have taken for all.
OF_NEW = re.compile(r"_ZZ*NK?10dynamicseg(4avx2|6avx512)")


@x86_only
@pytest.mark.skipif(shutil.which("objdump") is None, reason="there is no objdump (apt install binutils)")
def test_new_instructions_are_in_the_kernels_for_them_alone() -> None:
    # What is linked has no symbols any more: it cannot be told whose code is whose.
    built = list((SCRIPT.parents[1] / "build").glob("cp*/libdynamicseg_core.a"))
    if not built:
        pytest.skip("the module was not built in this folder")
    newest = max(built, key=lambda path: path.stat().st_mtime)
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(newest)]
    function, functions, inside, outside = "", 0, 0, set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if named := NAMED.match(line):
                function, functions = named[1], functions + 1
            elif (found := INSTRUCTION.match(line)) and NEW.fullmatch(found[1]):
                if OF_NEW.match(function):
                    inside += 1
                else:
                    outside.add(f"{found[1]} in {function}")
    assert process.returncode == 0
    assert functions > 200
    assert inside > 1000
    assert not outside
