"""A golden trace: twenty steps of the tiny mixture. It changes only in a commit that says why.

python tests/test_golden.py --write
"""

import json
import sys
from pathlib import Path

import pytest
import torch

from freeflow_lightning.flow import training_generator
from tiny import module

FILE = Path(__file__).parent / "assets" / "golden.json"


def trace() -> dict[str, list[float]]:
    m = module(student_lr=2e-3, auxiliary_lr=2e-3)
    optimizer = m.configure_optimizers()
    found: dict[str, list[float]] = {
        "prediction": [],
        "correction": [],
        "auxiliary": [],
        "lambda": [],
        "loss": [],
    }
    for n in range(20):
        m.t_c, m.alpha = max(0.0, 1 - n / 10), 0.3 * n / 20
        step = m.loss(m.draw(32, training_generator(0, 0, n)))
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        for name, residual in step.residuals.items():
            found[name].append(float(residual.mean_square().mean()))
        found["lambda"].append(float(step.scalars["correction/lambda"]))
        found["loss"].append(float(step.loss.detach()))
    return found


def test_the_trace_is_the_golden_one():
    golden, found = json.loads(FILE.read_text()), trace()
    assert golden.keys() == found.keys()
    for name, values in golden.items():
        assert found[name] == pytest.approx(values, rel=1e-3, abs=2e-5), name  # the loss crosses 0


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(trace(), indent=1) + "\n")
