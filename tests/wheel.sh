#!/usr/bin/env bash
# The wheel in the folder given, installed into an empty environment, runs without the repository.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
dist=$(cd "$1" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$repository/.venv/bin/python" -m venv "$scratch/venv"
export PIP_CONSTRAINT=$repository/constraints.txt
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$dist"/dynamicseg-*.whl
cd "$scratch"
venv/bin/dynamicseg info
venv/bin/python -c 'import skimage.data, PIL.Image; PIL.Image.fromarray(skimage.data.chelsea()[::4, ::4]).save("chelsea.png")'
venv/bin/dynamicseg segment chelsea.png -o out --max-steps 3 --verbose
test -s out/chelsea_labels.png -a -s out/chelsea_overlay.png -a -s out/chelsea.json
