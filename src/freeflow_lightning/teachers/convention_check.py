"""Whether a teacher's sign and direction of time are the paper's, measured on a few samples."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from freeflow_lightning.flow import apply, interpolate, join, solve
from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.convention_evidence import (
    AMPLIFYING,
    ConventionCheck,
    TeacherReading,
    Verdict,
)

ConditionalVelocity = Callable[[Tensor, Tensor, Any], Tensor]
TURNED = {
    "as it is": (1, False),
    "sign": (-1, False),
    "time": (1, True),
    "sign and time": (-1, True),
}
"""Reading: (factor on the velocity, whether it is asked at 1 - t)."""


@torch.no_grad()
def check_convention(
    teacher: Teacher, *, samples: int = 16, seed: int = 0, device: torch.device | str = "cpu"
) -> ConventionCheck:
    """Measure u(z, 1) and u(z, 0) on a few samples of one condition, and tell whether sign and time
    are the paper's.

    At the prior a velocity knows nothing of its sample: u(z, 1) = E[x | c] - z. So u correlates
    with z by -1, and z + u does not vary. Where several readings have this property, as those of an
    ideal field do with both sign and time turned round, each draws samples of its own, noises them
    again, and must be calibrated there: E[u . (x - n - u)] = 0.

    Two evaluations of `samples` states; 19 more for each reading in question.

    Args:
        teacher: the velocity in the convention in which it is claimed to be.
        samples: how many; more are taken of small states, for at least 1024 numbers.
        seed: of noise and condition.
        device: where the teacher is.

    >>> from freeflow_lightning.teachers import VelocityTeacher
    >>> check_convention(VelocityTeacher(lambda x, t, condition: x - 3, (2,))).verdict
    'wrong sign'
    """
    generator = Generator().manual_seed(seed)
    n = max(samples, -(-1024 // math.prod(teacher.sample_shape)))
    one_condition = teacher.draw_condition(1, generator)
    condition = apply(lambda tensor: tensor.to(device), join(*[one_condition] * n))
    z = torch.randn(n, *teacher.sample_shape, generator=generator).to(device)
    noise = torch.randn(n, *teacher.sample_shape, generator=generator).to(device)

    at = {
        flip: teacher(
            z, torch.full((n,), float(not flip), device=z.device, dtype=torch.float32), condition
        ).float()
        for flip in (False, True)
    }
    readings = {
        turned: _at_the_prior(z, sign * at[flip]) for turned, (sign, flip) in TURNED.items()
    }
    candidates = [turned for turned, reading in readings.items() if reading.is_right]
    if len(candidates) > 1:
        for turned in candidates:
            value = _imbalance(_turn(teacher, *TURNED[turned]), z, noise, condition)
            readings[turned] = readings[turned]._replace(imbalance=value)
    scale = float(teacher.output_scale(torch.ones(1, device=z.device, dtype=torch.float32)))
    found = ConventionCheck(_verdict(readings), readings, type(teacher).__name__, scale)
    # u(z, 1) is mostly the network's error, which tells no sign
    if found.size_problem and scale > AMPLIFYING:
        return found if found.verdict == "right" else found._replace(verdict="unclear")
    return found


def _at_the_prior(z: Tensor, u: Tensor) -> TeacherReading:
    """Correlation and spread about the mean over samples, which takes E[x | c] out whatever its
    size.
    """
    z, u = z - z.mean(0), u - u.mean(0)
    correlation = (z * u).sum() / (z.norm() * u.norm()).clamp(min=1e-12)
    return TeacherReading(
        float(correlation), float((z + u).norm() / z.norm()), size=float(u.norm() / z.norm())
    )


def _turn(velocity: ConditionalVelocity, sign: int, flip: bool) -> ConditionalVelocity:
    return lambda x, t, condition: sign * velocity(x, 1 - t if flip else t, condition)


def _imbalance(velocity: ConditionalVelocity, z: Tensor, noise: Tensor, condition: Any) -> float:
    """max over three times of |E[u . (x - n - u)]| / E|x - n|^2 on the velocity's own samples x."""
    x = solve(velocity, z, condition, steps=8, method="heun")
    worst = 0.0
    for time in (0.25, 0.5, 0.75):
        t = torch.full((len(z),), time, device=z.device, dtype=torch.float32)
        u, target = velocity(interpolate(x, noise, t), t, condition).float(), x - noise
        worst = max(worst, abs(float((u * (target - u)).mean() / target.square().mean())))
    return worst


def _verdict(readings: dict[str, TeacherReading]) -> Verdict:
    """Return what the readings say. An accusation needs one other reading that is clearly right,
    and a velocity clearly wrong.
    """
    here = readings["as it is"]
    rivals = {
        turned: reading
        for turned, reading in readings.items()
        if turned != "as it is" and reading.is_clearly_right
    }
    wrong: dict[str, Verdict] = {
        "sign": "wrong sign",
        "time": "wrong time",
        "sign and time": "wrong sign and time",
    }
    if here.is_right:
        better = [
            t for t, rival in rivals.items() if _calibration(rival) + 0.05 < _calibration(here) / 3
        ]
        return wrong[better[0]] if better else "right"
    if not rivals or not here.is_clearly_wrong:
        return "unclear"
    return wrong[min(rivals, key=lambda turned: _calibration(rivals[turned]))]


def _calibration(reading: TeacherReading) -> float:
    return reading.imbalance or 0.0
