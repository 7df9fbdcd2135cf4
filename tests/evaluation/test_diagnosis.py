"""Each diagnosis where the answer is known: u = -x, whose flow map is f(z, delta) = exp(-delta) z."""

import numpy as np
import pytest
import torch
from torch import nn

from freeflow_lightning import FlowMap
from freeflow_lightning.evaluation.auxiliary_lag import measure_lag
from freeflow_lightning.evaluation.trajectory_errors import (
    measure_along_delta,
    measure_solver_errors,
    recommend_steps,
)
from freeflow_lightning.evaluation.velocity_gaps import (
    PLACES,
    measure_correction_gap,
    measure_prediction_gap,
)
from freeflow_lightning.flow import Uniform
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.students.open_student import TrainedAuxiliary
from freeflow_lightning.teachers import Teacher

places = torch.tensor(PLACES)


class Decay(Teacher):
    sample_shape = (3,)

    def velocity(self, x, t, condition):
        return -x


class ExactMap(nn.Module):
    """The average velocity of Decay, times `scale`."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.weight = scale, nn.Parameter(torch.ones(1))

    def forward(self, x, t, condition=None, *, delta, gamma):
        return self.scale * x * (torch.expm1(-delta) / delta)[:, None]


class Linear(nn.Module):
    """G(x, r) = k(r) x: the exact noising velocity of samples f ~ N(0, s^2) for the optimal k, with an offset to train."""

    def __init__(self, s, offset=0.0):
        super().__init__()
        self.s, self.offset = s, nn.Parameter(torch.tensor(offset))

    def forward(self, x, r, condition=None, *, gamma=None):
        s2 = self.s**2
        k = ((1 - r) * s2 - r) / ((1 - r) ** 2 * s2 + r**2)
        return k[:, None] * x + self.offset


def student(scale=1.0):
    return FlowMap(ExactMap(scale), Decay(), (1.0, 1.0))


def trained(network, lr=0.02):
    return TrainedAuxiliary(network, Uniform(0.0, 1.0), (1.0, 1.0), (0.0, 1.0), lr)


@pytest.fixture
def z():
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_error_along_delta_is_as_computed(scale, z):
    path = measure_along_delta(student(scale), z, None, 1.0, batch_size=7)
    expected = (scale - 1) * torch.expm1(
        path.delta
    )  # |f - x| / |x| = |scale - 1| (1 - exp(-delta)) / exp(-delta)
    torch.testing.assert_close(path.errors, expected[:, None].expand(-1, 40), rtol=1e-3, atol=1e-4)
    assert path.teacher.shape == (16, 40, 3)


def test_the_prediction_gap_is_zero_at_the_optimum_and_as_computed_elsewhere(z):
    at_optimum = measure_prediction_gap(student(), z, None, 1.0)
    assert float(at_optimum.gap.max()) < 1e-3
    rms = z.square().mean(1).sqrt().mean()
    torch.testing.assert_close(at_optimum.size, torch.exp(-places) * rms, rtol=1e-4, atol=0)
    # f = z (1 + s (e - 1)), v_G = -s e z with e = exp(-delta): v_G - u = z (1 + s (e - 1) - s e) = (1 - s) z
    torch.testing.assert_close(
        measure_prediction_gap(student(1.5), z, None, 1.0).gap,
        0.5 * rms.expand(8),
        rtol=1e-3,
        atol=0,
    )


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_correction_gap_is_the_distance_of_the_auxiliary_to_the_teacher(shift, z):
    class Beside(nn.Module):
        def forward(self, x, r, condition=None, *, gamma):
            return shift - x

    gap = measure_correction_gap(student(), trained(Beside()), z, None, 1.0)
    torch.testing.assert_close(gap.gap, torch.full((8,), shift))
    f = student()(z, None, 1.0)
    assert float(gap.size[0]) == pytest.approx(
        float(f.square().mean(1).sqrt().mean()), rel=0.2
    )  # x_r is f at small r
    assert float(gap.size[-1]) == pytest.approx(1, rel=0.2)  # and noise at large r


def test_solvers_converge_at_their_order(z):
    errors = measure_solver_errors(Decay(), z, None, 1.0, fine=256)
    for method, order in {"euler": 1, "heun": 2, "midpoint": 2}.items():
        steps = [4, 8, 16]
        slope = np.polyfit(np.log(steps), np.log([errors[method][n] for n in steps]), 1)[0]
        assert -slope == pytest.approx(order, abs=0.2)
    assert errors["euler"][4] == pytest.approx((np.exp(-1) - 0.75**4) / np.exp(-1), rel=1e-3)
    assert recommend_steps(errors["euler"], 1e-9) is None
    assert recommend_steps(errors["heun"], 0.02) == 4


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


def test_the_copy_is_trained_and_not_the_network_itself():
    network = Linear(1.0, offset=1.0)
    measure_lag(student(), trained(network), Draw(0), 1.0, steps=3, samples=16, batch_size=8)
    assert float(network.offset) == 1
