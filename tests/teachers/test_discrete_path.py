"""Steps between the integer ones of a table, against diffusers' and at their ends."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from freeflow_lightning.teachers import Betas
from freeflow_lightning.teachers.discrete_path import DiscretePath, log_sigmas, step_of


def test_steps_are_those_of_diffusers_euler_sampler():
    euler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    )
    euler.set_timesteps(7, device="cpu")
    sigma = euler.sigmas[:-1].double()
    k = step_of(sigma / (1 + sigma), log_sigmas(Betas(0.00085, 0.012, power=2).abars()))
    torch.testing.assert_close(
        k, euler.timesteps.double(), atol=0.05, rtol=0
    )  # theirs interpolates sigma


def test_steps_are_exact_at_the_table_and_rise_between():
    table = log_sigmas(Betas().abars())
    torch.testing.assert_close(
        step_of(table.sigmoid(), table),
        torch.arange(1000.0, dtype=torch.float64),
        atol=1e-6,
        rtol=0,
    )
    k = step_of(torch.linspace(0, 1, 999), table)
    assert k[0] == 0
    assert k[-1] == 999
    assert (k.diff() >= 0).all()
    assert k.dtype == torch.float32


@pytest.mark.parametrize("abars", [[0.5], [0.5, 0.6], [1.0, 0.5], [0.5, -0.1]])
def test_a_table_that_is_none_is_refused(abars):
    with pytest.raises(ValueError, match="falling abars"):
        DiscretePath(torch.tensor(abars))
