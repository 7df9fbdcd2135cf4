"""What an auxiliary network has still to gain, where its optimum is known."""

import numpy as np
import pytest
import torch
from torch import nn

from evaluation.decay import student, trained
from freeflow_lightning import FlowMap
from freeflow_lightning.evaluation.auxiliary_lag import measure_lag
from freeflow_lightning.evaluation.velocity_gaps import PLACES
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.students.open_student import Overrides, open_auxiliary
from tiny import fit, mixture, mlp, module

places = torch.tensor(PLACES)


class Linear(nn.Module):
    """G(x, r) = k(r) x: the exact noising velocity of samples f ~ N(0, s^2) for the optimal k, with an offset to train."""

    def __init__(self, s, offset=0.0):
        super().__init__()
        self.s, self.offset = s, nn.Parameter(torch.tensor(offset))

    def forward(self, x, r, condition=None, *, gamma=None):
        s2 = self.s**2
        k = ((1 - r) * s2 - r) / ((1 - r) ** 2 * s2 + r**2)
        return k[:, None] * x + self.offset


def test_an_auxiliary_network_at_its_optimum_has_nothing_to_gain_and_one_that_lags_gains_what_it_lacks():
    """The student's samples are N(0, exp(-2)): the optimal G and its loss are known."""
    s, arguments = np.exp(-1.0), {"steps": 60, "batch_size": 256, "samples": 2000}
    best = measure_lag(student(), trained(Linear(s), lr=1e-3), Draw(0), 1.0, **arguments)
    known = s**2 / (
        (1 - places) ** 2 * s**2 + places**2
    )  # var(f - n | x_r) = s^2 / (variance of x_r)
    torch.testing.assert_close(best.now, known.float(), rtol=0.1, atol=0)
    assert abs(best.gained) < 0.01
    late = measure_lag(student(), trained(Linear(s, offset=1.0)), Draw(0), 1.0, **arguments)
    torch.testing.assert_close(late.now, best.now + 1, rtol=0.1, atol=0.05)
    assert late.gained == pytest.approx(float(1 - best.now.mean() / late.now.mean()), abs=0.05)
    assert float((late.teacher - late.now).abs().min()) > 0  # u = -x is another velocity


class Halves(nn.Module):
    """G(x, r) = k(r) x with one offset below r = 1/2 and another above."""

    def __init__(self):
        super().__init__()
        self.exact, self.offsets = (
            Linear(np.exp(-1.0)).requires_grad_(False),
            nn.Parameter(torch.ones(2)),
        )

    def forward(self, x, r, condition=None, *, gamma):
        return self.exact(x, r, gamma=gamma) + self.offsets[(r > 0.5).long()][:, None]


def test_the_auxiliary_network_goes_on_in_the_units_of_its_raw_output():
    """Where that is worth a million in u, its loss counts for nothing."""
    scale = lambda r: torch.where(r > 0.5, 1e6, 1.0)
    lag = measure_lag(
        student(),
        trained(Halves())._replace(output_scale=scale),
        Draw(0),
        1.0,
        steps=60,
        samples=500,
    )
    assert float((lag.later / lag.now)[:4].max()) < 0.7
    torch.testing.assert_close(lag.later[4:], lag.now[4:], rtol=0.05, atol=0)


def test_the_copy_goes_on_with_the_adam_of_its_run(tmp_path, monkeypatch):
    m = module(betas=(0.5, 0.6))
    fit(m, max_steps=1).save_checkpoint(tmp_path / "run.ckpt")
    flow_map = FlowMap(m.student, m.teacher)
    given = Overrides(mixture(), mlp())
    auxiliary = open_auxiliary(tmp_path / "run.ckpt", flow_map, given)
    used, adam = [], torch.optim.Adam
    monkeypatch.setattr(
        torch.optim, "Adam", lambda *args, **settings: used.append(settings) or adam(*args)
    )
    measure_lag(flow_map, auxiliary, Draw(0), 1.5, steps=1, samples=16, batch_size=8)
    assert used == [{"lr": 1e-2, "betas": (0.5, 0.6)}]


def test_the_copy_is_trained_and_not_the_network_itself():
    network = Linear(1.0, offset=1.0)
    measure_lag(student(), trained(network), Draw(0), 1.0, steps=3, samples=16, batch_size=8)
    assert float(network.offset) == 1
