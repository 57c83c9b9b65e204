#!/usr/bin/env bash
# Runs the tests of the native core against a build with the address and undefined-behaviour sanitizers of GCC.
#
#   tests/sanitize.sh FOLDER      builds in FOLDER/build, tests the package in FOLDER/site
#
# Needs what a build without isolation needs (pybind11, cmake) and the tests' dependencies in the Python on PATH.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: tests/sanitize.sh FOLDER" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
export CXX="${CXX:-g++}"

cmake -S "$root" -B "$folder/build" -DDYNAMICSEG_SANITIZE=ON -DDYNAMICSEG_CUDA=OFF -DDYNAMICSEG_CUDA_ON_HOST=ON \
  -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$(command -v python)" >"$folder/cmake.log"
cmake --build "$folder/build" --parallel "$(nproc)" >"$folder/build.log" || { cat "$folder/build.log" >&2; exit 1; }

# The package with the sanitized module, in a folder of its own. An installed package that is editable would be found
# first, through a hook that Python sets up at its start; -S starts without hooks, and PYTHONPATH then names the
# folders of installed packages.
rm -rf "$folder/site"
mkdir -p "$folder/site"
cp -r "$root/dynamicseg" "$folder/site/dynamicseg"
cp "$folder"/build/_native*.so "$folder/site/dynamicseg/"
installed=$(python -P -c 'import sys; print(":".join(path for path in sys.path if path.endswith("-packages")))')
export PYTHONPATH="$folder/site:$installed"
export DYNAMICSEG_CUDA_ON_HOST=$folder/build/cuda_on_host

# The runtimes must be there before Python is; libstdc++ too, for the one that intercepts its exceptions.
runtimes="$("$CXX" -print-file-name=libasan.so) $("$CXX" -print-file-name=libubsan.so)"
runtimes="$runtimes $("$CXX" -print-file-name=libstdc++.so)"
# Leaks are not looked for: Python itself never frees all. Threads sleep while they wait: where cores are shared, spinning
# ones double the time.
run() {
  env LD_PRELOAD="$runtimes" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 OMP_WAIT_POLICY=passive "$@"
}

run python -P -S -c "
import sys
from dynamicseg import _native
found = _native.__file__
sys.exit(0 if found.startswith('$folder/') else f'this is not the sanitized module: {found}')
"

# A report ends the process. Its text goes to descriptor 2, which pytest must therefore leave alone; in the processes
# that tests start it makes them fail. Left out: what measures memory, for the sanitizers bring their own allocator,
# and inductor, for the compiler it starts would run under the sanitizers as well.
cd "$root"
run python -P -S -m pytest -q --capture=sys -p no:cacheprovider tests/test_dynamic_loss*.py \
  tests/test_relu_batch_norm.py tests/test_batch_norm_dynamic_loss.py tests/test_felzenszwalb.py tests/test_region_tree.py \
  tests/test_consensus.py tests/test_runtime.py \
  tests/test_cuda_on_host.py tests/test_arithmetic.py \
  -k "not test_peak_is and not TestKeptMemory and not inductor"
