#!/usr/bin/env bash
# The wheel in the folder given, installed into an empty environment, runs without the repository. A wheel with CUDA
# kernels needs no CUDA library: it brings its runtime, and finds the driver, if there is one, by itself.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
dist=$(cd "$1" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

wheels=("$dist"/dynamicseg-*.whl)
[ ${#wheels[@]} -eq 1 ] || { echo "$dist holds ${#wheels[@]} wheels: one is wanted" >&2; exit 1; }
wheel=${wheels[0]}
ls -l "$wheel"
unpacked=$scratch/unpacked
"$repository/.venv/bin/python" -m zipfile -e "$wheel" "$unpacked"
megabytes() { du -m "$1" | cut -f 1; }

case $wheel in
  */dynamicseg-*-1cu[0-9]*-*.whl) with_cuda=1 limit=60 ;;
  *) with_cuda=0 limit=5 ;;
esac
[[ $wheel == *-manylinux_2_* ]] || { echo "the wheel is not named for systems that it runs on: $wheel" >&2; exit 1; }
if find "$unpacked" -name '*.libs' | grep .; then
  echo "libraries of this machine are in the wheel" >&2
  exit 1
fi
size=$(megabytes "$wheel")
[ "$size" -le $limit ] || { echo "the wheel has $size MB: at most $limit are wanted" >&2; exit 1; }
if find "$unpacked" -name '*on_host*' | grep .; then
  echo "these are for tests alone, and in no wheel" >&2
  exit 1
fi
modules=("$unpacked"/dynamicseg/_native*.so)
[ ${#modules[@]} -eq $((1 + with_cuda)) ] || { echo "the wheel holds ${modules[*]}" >&2; exit 1; }
for module in "${modules[@]}"; do
  libraries=$(objdump -p "$module" | sed -n 's/^ *NEEDED *//p')
  if grep -E 'cuda|nvrtc|torch|gomp|python' <<<"$libraries"; then
    echo "$(basename "$module") is linked with these: it must run where there are none" >&2
    exit 1
  fi
  exported=$(nm -D --defined-only "$module" | awk '$2 == "T" { print $3 }')
  [[ "$exported" =~ ^PyInit__native(_cuda)?$ ]] || { echo "$(basename "$module") exports $exported" >&2; exit 1; }
done

"$repository/.venv/bin/python" -m venv "$scratch/venv"
export PIP_CONSTRAINT=$repository/constraints.txt
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
cd "$scratch"
venv/bin/dynamicseg info | tee info.txt
if [ $with_cuda = 1 ]; then
  grep -E 'cuda[_ ]kernels.*yes' info.txt >/dev/null || { echo "the CUDA module does not load" >&2; exit 1; }
fi
venv/bin/python -c 'from dynamicseg.export import FORMATS; print("exports to", *FORMATS)'
venv/bin/python -c 'import skimage.data, PIL.Image; PIL.Image.fromarray(skimage.data.chelsea()[::4, ::4]).save("chelsea.png")'
venv/bin/dynamicseg segment chelsea.png -o out --max-steps 3 --verbose
test -s out/chelsea_labels.png -a -s out/chelsea_overlay.png -a -s out/chelsea.json

# On processors with less than this one: by choice, and emulated.
for instruction_set in baseline avx2; do
  DYNAMICSEG_INSTRUCTION_SET=$instruction_set venv/bin/dynamicseg segment chelsea.png -o "out-$instruction_set" --max-steps 3
done
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check pytest pytest-timeout hypothesis
run_tests() { venv/bin/pytest --config-file="$repository/pyproject.toml" -q -p no:cacheprovider "$@"; }
run_tests "$repository/tests/test_dynamic_loss.py" -k 'float32 and (baseline or avx2)'
run_tests "$repository"/tests/test_{felzenszwalb,emulated}.py

# A small device: the wheel without what it depends on, beside NumPy, Pillow and ONNX Runtime.
"$repository/.venv/bin/python" -c 'import pathlib, sys; sys.path.insert(0, sys.argv[1]); import onnx_models
onnx_models.save(pathlib.Path("model.onnx"))' "$repository/tests"
"$repository/.venv/bin/python" -m venv "$scratch/device"
device/bin/python -m pip install --quiet --disable-pip-version-check numpy pillow onnxruntime
device/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$wheel"
device/bin/python -m dynamicseg.predict model.onnx chelsea.png -o predicted --verbose
test -s predicted/chelsea_labels.png -a -s predicted/chelsea_overlay.png -a -s predicted/chelsea.json
