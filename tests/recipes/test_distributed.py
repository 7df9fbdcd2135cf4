"""Two processes (DDP over gloo) are one process with both their draws."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from places import TESTS
from tiny import drawn_together, module, same

STEPS, SIZE, SAMPLES = (
    5,
    8,
    17,
)  # the last validation batch has one sample: the second rank pads its own

SCRIPT = f"""
import json, sys
import torch
from freeflow_lightning.callbacks import HealthMonitor, PeriodicFID, TrajectoryError
from freeflow_lightning.metrics import FlatFeatures, FrechetDistance
from lightning.pytorch import Callback
from tiny import data, module, trainer

class Seen(Callback):
    values = []
    def on_train_batch_end(self, run, m, *_):
        self.values.append([float(m.last.scalars["correction/lambda"]), m.drawn[0].z.flatten().tolist()[:4]])

def train(devices):
    torch.manual_seed(0)
    m = module(student_lr=1e-3, auxiliary_lr=1e-3)
    draw, loss = m.draw, m.loss
    def keep_draw(*arguments):
        m.drawn = draw(*arguments)
        return m.drawn
    def keep_loss(*arguments):
        m.last = loss(*arguments)
        return m.last
    m.draw, m.loss = keep_draw, keep_loss
    run = trainer(devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps={STEPS}, callbacks=[
        Seen(), TrajectoryError(8, 2, 4), HealthMonitor(count=8, steps=2),
        PeriodicFID(FrechetDistance(FlatFeatures(2)), reference_samples=31, steps=4, cache=f"cache{{devices}}")])
    prior = data(batch_size={SIZE}, length={STEPS}, val_samples={SAMPLES}, val_batch_size=4)
    before = run.validate(m, prior, verbose=False)[0]
    run.fit(m, prior)
    torch.save({{"weights": m.state_dict(), "seen": Seen.values, "before": before}}, f"out{{devices}}_{{run.global_rank}}.pt")

train(int(sys.argv[1]))
"""


def launch(folder: Path, devices: int) -> list[dict]:
    (folder / "train.py").write_text(SCRIPT)
    here = str(TESTS)
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "train.py", str(devices)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [
        torch.load(folder / f"out{devices}_{rank}.pt", weights_only=True) for rank in range(devices)
    ]


@pytest.mark.slow
def test_two_processes_are_one_with_the_doubled_batch(tmp_path):
    first, second = launch(tmp_path, 2)
    assert same(first["weights"], second["weights"])
    for (lam, z), (lam2, z2) in zip(first["seen"], second["seen"], strict=True):
        assert lam == lam2  # from the norms of both
        assert not set(z) & set(z2)

    m = module(student_lr=1e-3, auxiliary_lr=1e-3)
    optimizer, lams = m.configure_optimizers(), []
    for step in range(STEPS):
        optimizer.zero_grad()
        done = m.loss(drawn_together(m, SIZE, step))
        done.loss.backward()
        optimizer.step()
        lams.append(float(done.scalars["correction/lambda"]))
    assert [lam for lam, _ in first["seen"]] == pytest.approx(lams, rel=1e-4)
    start = module(student_lr=1e-3, auxiliary_lr=1e-3).state_dict()
    for name, value in m.state_dict().items():
        moved = (value - start[name]).abs().max()
        gap = (first["weights"][name] - value).abs().max()
        assert gap <= 1e-2 * moved + 1e-6, name

    (alone,) = launch(tmp_path, 1)
    assert not same(alone["weights"], first["weights"])
    one, two = alone["before"], first["before"]
    assert one.keys() == two.keys()
    for name in ("fid/student", "fid/floor", "error/endpoint"):
        assert two[name] == pytest.approx(one[name], rel=1e-5), name
    assert json.dumps(two) == json.dumps(second["before"])
