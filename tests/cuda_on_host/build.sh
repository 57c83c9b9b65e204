#!/usr/bin/env bash
# Builds CUDA on the host, see README.md: the modules come into FOLDER/cuda_on_host.
#
#   tests/cuda_on_host/build.sh FOLDER [-DNAME=VALUE ...]
#
# Needs what a build without isolation needs (pybind11, cmake) in the Python on PATH.
set -euo pipefail

[ $# -ge 1 ] || { echo "usage: tests/cuda_on_host/build.sh FOLDER [-DNAME=VALUE ...]" >&2; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cmake -S "$root" -B "$folder" -DDYNAMICSEG_CUDA_ON_HOST=ON -DDYNAMICSEG_CUDA=OFF \
  -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$(command -v python)" "$@" >"$folder/cmake.log"
cmake --build "$folder" --target cuda_on_host --parallel "$(nproc)"
