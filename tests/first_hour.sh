#!/usr/bin/env bash
# The first hour, from the wheel alone: build it, install it outside the checkout, and use it in an empty folder.
# tests/first_hour.sh [PYTHON]: an environment with the dependencies, build and hatchling. Nothing is downloaded.
set -euo pipefail
python=${1:-python3}
checkout=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} FREEFLOW_CACHE="$work/cache"

"$python" -m build --no-isolation --outdir "$work/dist" "$checkout" >"$work/build.log" 2>&1 || {
    cat "$work/build.log"
    exit 1
}
"$python" -m venv --without-pip "$work/env"
"$python" -m pip --python "$work/env/bin/python" install --quiet --no-deps --no-index "$work"/dist/*.whl
# the libraries are those of PYTHON; its own freeflow-lightning comes after the wheel's
"$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
    >"$("$work/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/libraries.pth"
PATH="$work/env/bin:$PATH"

mkdir "$work/empty"
cd "$work/empty"
freeflow --version
python - "$work/env" <<'END'
import sys
from pathlib import Path

import freeflow_lightning

package = Path(freeflow_lightning.__file__).parent
assert package.is_relative_to(Path(sys.argv[1]).resolve()), package
assert (package / "py.typed").is_file()
print(freeflow_lightning.__version__)
END
freeflow configs
freeflow fit --config digits --trainer.max_steps 2 --data.length 2 --data.batch_size 8 --data.val_samples 0 \
    --trainer.accelerator cpu
freeflow init mine
# further verbs in one process, which imports torch once
python - <<'END'
import os
import sys

from freeflow_lightning.commands.main import main

LINES = """
sample --checkpoint runs/digits --num_samples 4 --device cpu
evaluate --checkpoint runs/digits --num_samples 20 --reference_samples 20 --reference_steps 2 --device cpu
export --checkpoint runs/digits --output student --device cpu
inspect --config my_unet.yaml
"""
for line in LINES.strip().splitlines():
    sys.argv = ["freeflow", *line.split()]
    os.chdir("mine" if sys.argv[1] == "inspect" else ".")
    main()
END
cd mine
freeflow fit --config my_unet.yaml --trainer.max_steps 2 --data.length 2 --trainer.accelerator cpu
test -f ../samples/000003.png -a -f ../evaluation/evaluation.json -a -f ../student/freeflow.json
test -d runs/my_unet/version_0/checkpoints
echo "the first hour is over"
