"""Errors of paths where the flow map is known."""

import numpy as np
import pytest
import torch

from evaluation.decay import Decay, student
from freeflow_lightning.evaluation.trajectory_errors import (
    measure_along_delta,
    measure_solver_errors,
    recommend_steps,
)


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


def test_solvers_converge_at_their_order(z):
    errors = measure_solver_errors(Decay(), z, None, 1.0, fine=256)
    for method, order in {"euler": 1, "heun": 2, "midpoint": 2}.items():
        steps = [4, 8, 16]
        slope = np.polyfit(np.log(steps), np.log([errors[method][n] for n in steps]), 1)[0]
        assert -slope == pytest.approx(order, abs=0.2)
    assert errors["euler"][4] == pytest.approx((np.exp(-1) - 0.75**4) / np.exp(-1), rel=1e-3)
    assert recommend_steps(errors["euler"], 1e-9) is None
    assert recommend_steps(errors["heun"], 0.02) == 4
