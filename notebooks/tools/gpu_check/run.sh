#!/bin/sh
# On the machine with the GPU, from the repository's root: sh notebooks/tools/gpu_check/run.sh OUT [--commit HASH] [--limit SECONDS].
# Some stages again: gpu_check itself, with --stages.
# What is not timed comes first, side by side: the tests, smoke, FSDP2 and the distillations; then each timed stage alone.
here=$(dirname "$0")
out=$1
shift
if [ -d "$here/wheels" ]; then
    python3 -m pip install --quiet --no-index --no-deps "$here"/wheels/*.whl || exit 1
fi
mkdir -p "$out"
timeout 300 python3 -m pytest -q -m gpu -n 4 tests/test_gpu.py >"$out/tests.txt" 2>&1 &
python3 "$here" --output "$out" --stages f "$@" &
python3 "$here" --output "$out" --stages a,e "$@" &
wait
tail -3 "$out/tests.txt"
python3 "$here" --output "$out" --stages d,g,b,c,h "$@"
