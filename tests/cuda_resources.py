"""What the compiler says each CUDA kernel takes: registers, spills, shared memory.

``python tests/cuda_resources.py FILE.json`` writes it down; ``tests/test_cuda_resources.py`` sets the limits. Compiling
takes a minute or two, so what came of it is kept in build/cuda until a source changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "csrc"
KEPT = ROOT / "build" / "cuda" / "resources.json"
ARCHITECTURE = "sm_90"
REGISTERS = 65536
"""Of a multiprocessor of that architecture."""


@dataclass(frozen=True)
class Kernel:
    """One instantiation of a kernel; sizes in bytes."""

    source: str
    name: str
    registers: int
    registers_allowed: int
    """By its launch bounds: so many threads in a block, so many blocks on a multiprocessor."""
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int
    """Declared in the kernel; what launches ask for is not known here."""


def compiler() -> str | None:
    """The nvcc of CUDACXX, or of PATH."""
    return shutil.which(os.environ.get("CUDACXX", "nvcc"))


def all_kernels() -> list[Kernel]:
    """Those of all sources, sorted; compiles them where they have changed since the last time."""
    nvcc = compiler()
    assert nvcc is not None
    key = _key(nvcc)
    if KEPT.is_file():
        kept = json.loads(KEPT.read_text())
        if kept["key"] == key:
            return [Kernel(**kernel) for kernel in kept["kernels"]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        of_sources = pool.map(lambda source: _kernels_of(nvcc, source), sorted((SOURCES / "cuda").glob("*.cu")))
        kernels = sorted((kernel for found in of_sources for kernel in found), key=lambda kernel: kernel.name)
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    KEPT.write_text(json.dumps({"key": key, "kernels": [asdict(kernel) for kernel in kernels]}))
    return kernels


def version(nvcc: str) -> str:
    """What the compiler calls itself."""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return text.strip().splitlines()[-1]


def _key(nvcc: str) -> str:
    digest = hashlib.sha256(version(nvcc).encode())
    for source in sorted(path for path in SOURCES.rglob("*") if path.suffix in (".h", ".cu")):
        digest.update(source.read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()


def _kernels_of(nvcc: str, source: Path) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-cubin", f"-arch={ARCHITECTURE}", "-std=c++20", "-Xptxas=-v", f"-I{SOURCES}"]
        command += [f"-I{SOURCES / 'include'}", "--keep", "--keep-dir", folder, "-o", f"{folder}/cubin", str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        bounds = _launch_bounds((Path(folder) / source.with_suffix(".ptx").name).read_text())
    return [_kernel(source.name, bounds, *found) for found in _REPORT.findall(done.stderr)]


_REPORT = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?(Used \d+ registers[^\n]*)",
    re.DOTALL,
)
_ENTRY = re.compile(r"\.entry (\w+)\s*\([^)]*\)([^{]*)\{")


def _launch_bounds(ptx: str) -> dict[str, int]:
    """Registers that each kernel may have, a multiple of 8 and at most 255."""
    allowed = {}
    for name, directives in _ENTRY.findall(ptx):
        threads = re.search(r"\.maxntid (\d+)", directives)
        blocks = re.search(r"\.minnctapersm (\d+)", directives)
        together = (int(threads[1]) if threads else 1024) * (int(blocks[1]) if blocks else 1)
        allowed[name] = min(REGISTERS // together // 8 * 8, 255)
    return allowed


def _kernel(
    source: str, allowed: dict[str, int], mangled: str, stack: str, stores: str, loads: str, used: str
) -> Kernel:
    registers, shared = re.search(r"Used (\d+) registers", used), re.search(r"(\d+) bytes smem", used)
    assert registers is not None
    demangled = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    return Kernel(
        source=source,
        name=_short(demangled),
        registers=int(registers[1]),
        registers_allowed=allowed[mangled],
        spill_stores=int(stores),
        spill_loads=int(loads),
        stack=int(stack),
        shared=int(shared[1]) if shared else 0,
    )


def _short(demangled: str) -> str:
    """The kernel and its template arguments: no return type, no parameters, no namespace."""
    name = re.sub(r"dynamicseg::|\(anonymous namespace\)::", "", demangled.removeprefix("void "))
    depth = 0
    for index, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            return name[:index]
    return name


def main(report: Path) -> None:
    """Writes the report."""
    nvcc = compiler()
    if nvcc is None:
        raise SystemExit("there is no nvcc: install the CUDA toolkit, put it on PATH or set CUDACXX")
    kernels = all_kernels()
    content = {
        "compiler": version(nvcc),
        "architecture": ARCHITECTURE,
        "kernels": [asdict(kernel) for kernel in kernels],
    }
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(content, indent=1) + "\n")
    spilling = sum(kernel.spill_stores + kernel.spill_loads > 0 for kernel in kernels)
    most = max(kernel.registers for kernel in kernels)
    print(f"{len(kernels)} kernels, at most {most} registers, {spilling} with spills: {report}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tests/cuda_resources.py FILE.json")
    main(Path(sys.argv[1]))
