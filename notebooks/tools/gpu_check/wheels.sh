#!/bin/sh
# Wheels for a machine without a network: what this package needs beside torch, lightning, timm, torchmetrics, peft, onnx and
# transformers, which are there. Run it with the Python version of that machine.
set -e
here=$(dirname "$0")
python -m pip download --quiet --no-deps --only-binary :all: --dest "$here/wheels" \
    diffusers jsonargparse docstring-parser typeshed-client importlib-resources torch-fidelity shtab jvp-flash-attention
python -m pip wheel --quiet --no-deps --wheel-dir "$here/wheels" "$here/../../.."
