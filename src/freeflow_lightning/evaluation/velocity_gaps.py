"""By how much the velocities that the objectives set equal differ in a trained student."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow import (
    CentralDifference,
    expand,
    flow_map,
    interpolate,
    training_generator,
)
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import TrainedAuxiliary

PLACES = tuple((k + 0.5) / 8 for k in range(8))
"""Middles of eight bins of delta or r."""


class VelocityGaps(NamedTuple):
    """Root mean squares per element at each place [K]: of a velocity difference, and of the
    teacher's velocity there.
    """

    place: Tensor
    gap: Tensor
    size: Tensor


@torch.no_grad()
def measure_prediction_gap(
    student: FlowMap, z: Tensor, condition: Any, guidance: float
) -> VelocityGaps:
    """v_G - u along the student's path, v_G = F + delta dF/d(delta) by central differences (see Eq.
    9).
    """
    one = torch.ones(len(z), device=z.device)

    def average_velocity(z: Tensor, delta: Tensor) -> Tensor:
        return student.network(z, one, condition, delta=delta, gamma=guidance * one)

    teacher = student.teacher.guided_velocity(condition, gamma=guidance)
    gaps, sizes = [], []
    for delta in (place * one for place in PLACES):
        F = average_velocity(z, delta)
        v_g = F + expand(delta, F) * CentralDifference(1e-2)(average_velocity, z, delta)
        u = teacher(flow_map(z, F, delta), 1 - delta)
        gaps.append(_rms(v_g - u))
        sizes.append(_rms(u))
    return VelocityGaps(torch.tensor(PLACES), torch.tensor(gaps), torch.tensor(sizes))


@torch.no_grad()
def measure_correction_gap(
    student: FlowMap,
    auxiliary: TrainedAuxiliary,
    z: Tensor,
    condition: Any,
    guidance: float,
    seed: int = 0,
) -> VelocityGaps:
    """G - u at the noised samples, u guided inside the interval alone (see Eq. 11)."""
    one = torch.ones(len(z), device=z.device)
    f, n = student(z, condition, guidance), draw_noise_like(z, seed)
    teacher = student.teacher.guided_velocity(
        condition, gamma=guidance, interval=auxiliary.guidance_interval
    )
    gaps, sizes = [], []
    for r in (place * one for place in PLACES):
        x_r = interpolate(f, n, r)
        u = teacher(x_r, r)
        gaps.append(_rms(auxiliary.network(x_r, r, condition, gamma=guidance * one) - u))
        sizes.append(_rms(u))
    return VelocityGaps(torch.tensor(PLACES), torch.tensor(gaps), torch.tensor(sizes))


def draw_noise_like(z: Tensor, seed: int) -> Tensor:
    """Noise n of the shape of z, a function of the seed."""
    return torch.randn(z.shape, generator=training_generator(seed, 1, 0)).to(z)


def _rms(x: Tensor) -> float:
    return float(x.flatten(1).square().mean(1).sqrt().mean())
