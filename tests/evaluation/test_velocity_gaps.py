"""Gaps between velocities where both are known."""

import pytest
import torch
from torch import nn

from evaluation.decay import student, trained
from freeflow_lightning.evaluation.velocity_gaps import (
    PLACES,
    measure_correction_gap,
    measure_prediction_gap,
)

places = torch.tensor(PLACES)


@pytest.fixture
def z():
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


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
