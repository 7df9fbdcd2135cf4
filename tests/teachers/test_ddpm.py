"""Schedules against diffusers' schedulers, and what happens beyond the schedule's end."""

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from freeflow_lightning.teachers import Betas, CosineBetas, DDPMTeacher, GivenAbars
from teachers.mixture import NULL
from teachers.oracle import ddpm

STABLE_DIFFUSION = Betas(0.00085, 0.012, power=2)


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [
        (Betas(), {"beta_schedule": "linear"}),
        (
            STABLE_DIFFUSION,
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
        (CosineBetas(), {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_schedules_are_those_of_diffusers(schedule, settings):
    theirs = DDPMScheduler(**settings).alphas_cumprod
    torch.testing.assert_close(schedule.abars().float(), theirs, rtol=2e-4, atol=1e-9)
    assert torch.equal(GivenAbars(theirs.tolist()).abars(), theirs.double())


class Remembers(nn.Module):
    """Answers with zeros and keeps what it was asked with."""

    def forward(self, y, k, condition):
        self.y, self.k = y, k
        return 0 * y


def test_whole_steps_are_the_nearest():
    net, t = Remembers(), torch.linspace(0.02, 0.98, 50)
    DDPMTeacher(net, (1,)).velocity(torch.ones(50, 1), t, None)
    fractional = net.k
    DDPMTeacher(net, (1,), whole_steps=True).velocity(torch.ones(50, 1), t, None)
    assert torch.equal(net.k, fractional.round())
    assert (net.k != fractional).any()


def test_beyond_the_schedule_its_last_step_is_asked_as_samplers_do():
    """x = z itself is the state, the data is predicted as diffusers does, and u goes from x to it."""
    teacher = ddpm("epsilon", STABLE_DIFFUSION).requires_grad_(False)
    assert teacher.function.path.t_max == pytest.approx(0.936, abs=5e-4)
    z, label = (
        torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        torch.full((20,), NULL),
    )
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        prediction_type="epsilon",
    )
    epsilon = teacher.function.net(z, torch.full((20,), 999.0), label)
    data = scheduler.step(epsilon, 999, z).pred_original_sample
    one = torch.ones(20, dtype=torch.float64)
    torch.testing.assert_close(teacher.velocity(z, one, label), data - z, atol=1e-3, rtol=1e-3)


def test_t_max_tames_an_epsilon_network():
    one = torch.ones(1)
    assert float(ddpm("epsilon").output_scale(one)) == pytest.approx(157.4, rel=1e-3)
    assert float(ddpm("epsilon", t_max=0.97).output_scale(one)) == pytest.approx(32.35, rel=1e-3)
    assert float(ddpm("v_prediction").output_scale(one)) == pytest.approx(1, rel=1e-2)


def test_a_schedule_without_terminal_signal_is_finite():
    abars = Betas().abars()
    zero = (abars - abars[-1]).clamp(min=0)
    teacher = ddpm("v_prediction", GivenAbars(zero.tolist()))
    assert teacher.function.path.t_max > 0.999
    x = torch.randn(4, 2, dtype=torch.float64)
    assert teacher.velocity(x, torch.ones(4).double(), torch.full((4,), NULL)).isfinite().all()


def test_the_second_half_of_learned_variances_is_dropped():
    class Both(nn.Module):
        def forward(self, y, k, condition):
            return torch.cat([y, torch.full_like(y, 7)], 1)

    class One(nn.Module):
        def forward(self, y, k, condition):
            return y

    x, t = torch.randn(3, 2, 4, 4), torch.rand(3)
    both, one = DDPMTeacher(Both(), (2, 4, 4), learned_variance=True), DDPMTeacher(One(), (2, 4, 4))
    assert torch.equal(both.velocity(x, t, None), one.velocity(x, t, None))


def test_wrong_settings_are_refused():
    with pytest.raises(
        ValueError, match=r"expected one of \['epsilon', 'sample', 'v_prediction'\]"
    ):
        DDPMTeacher(Remembers(), (1,), "eps")
    with pytest.raises(ValueError, match=r"expected t_max to be a finite number above"):
        DDPMTeacher(Remembers(), (1,), t_max=0.0)
