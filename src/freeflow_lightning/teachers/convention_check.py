"""Whether a teacher's sign and direction of time are the paper's, measured on a few samples."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from freeflow_lightning.flow import apply, interpolate, join, solve
from freeflow_lightning.teachers.base import Teacher

Verdict = Literal["right", "wrong sign", "wrong time", "wrong sign and time", "unclear"]
ConditionalVelocity = Callable[[Tensor, Tensor, Any], Tensor]


class TeacherReading(NamedTuple):
    """What one reading of the velocity looks like at the prior, where u(z, 1) = E[x | c] - z.

    Args:
        correlation: of u(z, 1) with z, over samples of one condition; -1 for an exact teacher.
        spread: standard deviation of z + u(z, 1) over that of z, likewise; 0 for an exact teacher.
        imbalance: distance from E[u . (x - n - u)] = 0, a property of every true velocity on its
            own samples, as a share of E|x - n|^2; measured only where several readings look right
            at the prior, else None.
        size: standard deviation of u(z, 1) over that of z, likewise; 1 for an exact teacher.
    """

    correlation: float
    spread: float
    imbalance: float | None = None
    size: float = 1.0

    @property
    def right(self) -> bool:
        """Negative correlation, and less spread than the noise."""
        return self.correlation < -0.5 and self.spread < 1

    @property
    def clearly_right(self) -> bool:
        return self.correlation < -0.9 and self.spread < 0.5

    @property
    def clearly_wrong(self) -> bool:
        return self.correlation > -0.5 or self.spread > 1.2

    def figures(self) -> str:
        """In words, for a line of a table."""
        prior = f"correlation of u(z, 1) with z {self.correlation:+.2f}, std(z + u) / std(z) {self.spread:.2f}"
        return prior + (
            "" if self.imbalance is None else f", imbalance on its own samples {self.imbalance:.2f}"
        )


class ConventionCheck(NamedTuple):
    """The evidence of `check_convention`: how the velocity reads as it is and with sign, time or
    both turned round.

    Args:
        verdict: what is wrong, if anything; "unclear" for a field that is no trained teacher's in
            any reading.
        readings: by what was turned round: "as it is", "sign", "time", "sign and time".
        name: the teacher's class.
        output_scale: what an error of the network's raw output is multiplied by at the prior.
    """

    verdict: Verdict
    readings: dict[str, TeacherReading]
    name: str
    output_scale: float = 1.0

    @property
    def correlation(self) -> float:
        """Of u(z, 1) with z; must be strongly negative."""
        return self.readings["as it is"].correlation

    @property
    def spread(self) -> float:
        """Standard deviation of z + u(z, 1) over that of z; must be below 1."""
        return self.readings["as it is"].spread

    @property
    def size(self) -> float:
        """Standard deviation of u(z, 1) over that of z; 1 for an exact teacher."""
        return self.readings["as it is"].size

    @property
    def size_problem(self) -> str | None:
        """What is wrong with the size of u(z, 1), where training starts, and the cure; None where
        nothing is.
        """
        low, high = SIZES
        if low <= self.size <= high:
            return None
        seen = f"the spread of u(z, 1) is {self.size:.3g} times that of the noise z, and 1 for an exact teacher"
        if self.output_scale > AMPLIFIES:
            return (
                f"{seen}: at the prior the error of its network is multiplied by "
                f"{self.output_scale:.4g}. Ask it at lower times: t_max 0.97 of the teacher "
                "brings that to 32"
            )
        return f"{seen}: look at the weights, the scale of the latents, and whether it was trained up to pure noise (t_max)"

    def summary(self) -> str:
        """Return the verdict with its figures, a line per reading.

        >>> from freeflow_lightning.teachers import GaussianMixtureTeacher
        >>> print(check_convention(GaussianMixtureTeacher([[2.0, 0.0]], 0.5)).summary().splitlines()[0])
        GaussianMixtureTeacher: sign and time right
        """
        said = {
            "right": "sign and time right",
            "unclear": "sign and time unclear: in no reading does it look like a trained teacher (untrained or other weights?)",
        }
        lines = [f"{self.name}: {said.get(self.verdict, self.verdict)}"]
        for turned, reading in self.readings.items():
            label = turned if turned == "as it is" else f"{turned} turned round"
            lines.append(f"  {label:<27}{reading.figures()}")
        return "\n".join(lines)

    def evidence(self) -> str:
        """Return the figures of every reading in one line."""
        return "; ".join(
            f"{turned}: {reading.figures()}" for turned, reading in self.readings.items()
        )

    def raise_if_wrong(self) -> None:
        """Raise a ValueError that says what is wrong and how to mend it; nothing for "right" and
        "unclear".
        """
        cures = {
            "wrong sign": "return the velocity from prior to data, u = data - noise: negate it",
            "wrong time": "t = 1 is the prior and t = 0 data: give your network 1 - t",
            "wrong sign and time": (
                "t = 1 is the prior and u = data - noise: negate it and give your network 1 - t "
                "(for SiT weights: the other convention, 'sit' or 'repa')"
            ),
        }
        if self.verdict in cures:
            raise ValueError(
                f"the teacher's velocity has the {self.verdict}: {cures[self.verdict]}; if you "
                "know better, FreeFlowModule(check_teacher=False) trains all the same. Evidence: "
                f"{self.evidence()}"
            )


SIZES = (0.75, 1.3)
"""Sizes of u(z, 1) over z that a trained teacher has; it was 0.97 to 1.03 of those that were tried.
"""
AMPLIFIES = 4.0
"""Worth of the raw output in u from which on its error is what makes u(z, 1) too large."""
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
        flip: teacher(z, torch.full((n,), float(not flip), device=z.device), condition).float()
        for flip in (False, True)
    }
    readings = {
        turned: _at_the_prior(z, sign * at[flip]) for turned, (sign, flip) in TURNED.items()
    }
    candidates = [turned for turned, reading in readings.items() if reading.right]
    if len(candidates) > 1:
        for turned in candidates:
            value = _imbalance(_turn(teacher, *TURNED[turned]), z, noise, condition)
            readings[turned] = readings[turned]._replace(imbalance=value)
    scale = float(teacher.output_scale(torch.ones(1, device=z.device)))
    found = ConventionCheck(_verdict(readings), readings, type(teacher).__name__, scale)
    # u(z, 1) is mostly the network's error, which tells no sign
    if found.size_problem and scale > AMPLIFIES:
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
        t = torch.full((len(z),), time, device=z.device)
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
        if turned != "as it is" and reading.clearly_right
    }
    wrong: dict[str, Verdict] = {
        "sign": "wrong sign",
        "time": "wrong time",
        "sign and time": "wrong sign and time",
    }
    if here.right:
        better = [
            t for t, rival in rivals.items() if _calibration(rival) + 0.05 < _calibration(here) / 3
        ]
        return wrong[better[0]] if better else "right"
    if not rivals or not here.clearly_wrong:
        return "unclear"
    return wrong[min(rivals, key=lambda turned: _calibration(rivals[turned]))]


def _calibration(reading: TeacherReading) -> float:
    return reading.imbalance or 0.0
