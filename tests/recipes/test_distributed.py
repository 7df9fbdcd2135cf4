"""Two processes (DDP over gloo) are one process with both their draws."""

import json

import pytest
import torch
from lightning.pytorch import Callback

import forks
from freeflow_lightning.callbacks import HealthMonitor, PeriodicFID, TrajectoryError
from freeflow_lightning.metrics import FlatFeatures, FrechetDistance
from tiny import data, drawn_together, module, same, trainer

STEPS, SIZE, SAMPLES = (
    5,
    8,
    17,
)  # the last validation batch has one sample: the second rank pads its own


class Seen(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, run, m, *_):
        lam, z = m.last.scalars["correction/lambda"], m.drawn[0].z
        self.values.append([float(lam), z.flatten().tolist()[:4]])


def train(devices: int) -> None:
    torch.manual_seed(0)
    m, seen = module(student_lr=1e-3, auxiliary_lr=1e-3), Seen()
    draw, loss = m.draw, m.loss

    def keep_draw(*arguments):
        m.drawn = draw(*arguments)
        return m.drawn

    def keep_loss(*arguments):
        m.last = loss(*arguments)
        return m.last

    m.draw, m.loss = keep_draw, keep_loss
    fid = PeriodicFID(
        FrechetDistance(FlatFeatures(2)), reference_samples=31, steps=4, cache=f"cache{devices}"
    )
    run = trainer(
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=STEPS,
        callbacks=[seen, TrajectoryError(8, 2, 4), HealthMonitor(count=8, steps=2), fid],
    )
    prior = data(batch_size=SIZE, length=STEPS, val_samples=SAMPLES, val_batch_size=4)
    before = run.validate(m, prior, verbose=False)[0]
    run.fit(m, prior)
    found = {"weights": m.state_dict(), "seen": seen.values, "before": before}
    torch.save(found, f"out{devices}_{run.global_rank}.pt")


@pytest.mark.slow
def test_two_processes_are_one_with_the_doubled_batch():
    forks.run_together(2, train, 2)
    first, second = (torch.load(f"out2_{rank}.pt", weights_only=True) for rank in range(2))
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

    train(1)
    alone = torch.load("out1_0.pt", weights_only=True)
    assert not same(alone["weights"], first["weights"])
    one, two = alone["before"], first["before"]
    assert one.keys() == two.keys()
    for name in ("fid/student", "fid/floor", "error/endpoint"):
        assert two[name] == pytest.approx(one[name], rel=1e-5), name
    assert json.dumps(two) == json.dumps(second["before"])
