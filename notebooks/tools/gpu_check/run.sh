#!/bin/sh
# On the machine with the GPU, from the repository's root: sh notebooks/tools/gpu_check/run.sh OUT [options of gpu_check]
here=$(dirname "$0")
out=$1
shift
if [ -d "$here/wheels" ]; then
    python -m pip install --quiet --no-index --no-deps "$here"/wheels/*.whl || exit 1
fi
mkdir -p "$out"
timeout 150 python -m pytest -q -m gpu tests/test_gpu.py >"$out/tests.txt" 2>&1
tail -3 "$out/tests.txt"
python "$here" --output "$out" "$@"
