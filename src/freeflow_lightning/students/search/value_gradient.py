"""Whether the gradient of a student's value can be trusted: compared with the teacher's own.

Nothing in the training of a posterior map supervises its derivative in the state x_t: of one-step
students of toys it was 0.25 to 1.8 times the right one.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from freeflow_lightning.flow import apply, renoise, sample_posterior
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.posterior_draws import draw_posterior
from freeflow_lightning.teachers import Teacher

TIMES = (0.25, 0.5, 0.75)
LEAST, MOST = 0.5, 2.0
"""Ratios of the student's gradient to the teacher's between which it may steer."""
STATES, DRAWS, STEPS = 4, 16, 16

Draws = Callable[[Tensor, Tensor], Tensor]
"""(inner noise, states) [B, ...] to draws of their posteriors, with a gradient."""
Scores = Callable[[Tensor, Any], Tensor]
"""(samples, condition) to scores [B], with a gradient."""


@runtime_checkable
class Differentiable(Protocol):
    """A verifier of pictures that can be differentiated: it also scores decoded ones, in [-1,
    1].
    """

    def reward(self, samples: Tensor, condition: Any) -> Tensor:
        """Scores [B] of float pictures [B, C, H, W] in [-1, 1], with their gradient."""


def scores_with_gradient(verifier: Callable[..., Tensor], teacher: Teacher) -> Scores:
    """Return the verifier's scores of samples [B, *sample_shape] as a function that has a gradient.

    Raises:
        ValueError: (when called) a verifier of pictures that has no `reward`.
    """

    def score(x: Tensor, condition: Any) -> Tensor:
        decoded = teacher.decode(x)
        if decoded.ndim != 4:
            return verifier(decoded, condition)
        if not isinstance(verifier, Differentiable):
            raise ValueError(
                "steering by the gradient needs one: give the verifier a method reward(samples, "
                "condition) that scores float pictures in [-1, 1], or steer by weights"
            )
        return verifier.reward(decoded, condition)

    return score


def check_value_gradient(
    student: FlowMap, score: Scores, guidance: float, strength: float
) -> dict[float, float]:
    """Return the ratio of grad V by one-step draws to grad V by GLASS, at `TIMES`, over a few
    states.

    It is <g, g*> / <g*, g*> over all states of a time: 1 for the exact map.

    Raises:
        ValueError: a ratio outside [LEAST, MOST].
    """
    ratios = {t: _ratio(student, score, guidance, strength, t) for t in TIMES}
    wrong = {t: ratio for t, ratio in ratios.items() if not LEAST <= ratio <= MOST}
    if wrong:
        said = ", ".join(f"{ratio:.2f} at t = {t:g}" for t, ratio in wrong.items())
        raise ValueError(
            f"the gradient of this student's value is {said} times the teacher's, and may steer "
            f"between {LEAST:g} and {MOST:g}: use --steer_by weights, or train it for longer"
        )
    return ratios


def value_gradient(
    draw: Draws, score: Scores, e: Tensor, x: Tensor, condition: Any, strength: float
) -> Tensor:
    """grad V(x), [B, ...], with V = log mean exp(strength score) over the draws of noises e.

    Args:
        draw: draws of posteriors.
        score: of samples.
        e: inner noise, [K * B, ...]: row k * B + b is draw k of state b.
        x: states, [B, ...].
        condition: of the states.
        strength: of the reward.
    """
    k = len(e) // len(x)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        rows = x.repeat(k, *[1] * (x.ndim - 1))
        given = apply(lambda part: part.repeat(k, *[1] * (part.ndim - 1)), condition)
        reward = strength * score(draw(e, rows), given)
        value = reward.view(k, len(x)).logsumexp(0).sum()
        (gradient,) = torch.autograd.grad(value, x)
    return gradient


def _ratio(student: FlowMap, score: Scores, guidance: float, strength: float, t: float) -> float:
    teacher, device = student.teacher, student.device
    index = torch.arange(STATES)
    z, condition = teacher.draw_indexed(index, seed=0, stream="value gradient", device=device)
    n, _ = teacher.draw_indexed(index + STATES, seed=0, stream="value gradient", device=device)
    index = torch.arange(STATES * DRAWS)
    e, _ = teacher.draw_indexed(index, seed=1, stream="value gradient", device=device)
    x = renoise(student(z, condition, guidance), n, torch.full((STATES,), t, device=device))
    given = apply(lambda part: part.repeat(DRAWS, *[1] * (part.ndim - 1)), condition)
    times = torch.full((len(e),), t, device=device)

    def by_student(e: Tensor, x: Tensor) -> Tensor:
        return draw_posterior(student.network, e, x, t, given, guidance, 1)

    u = teacher.guided_velocity(given, gamma=guidance)

    def by_teacher(e: Tensor, x: Tensor) -> Tensor:
        return sample_posterior(u, e, x, times, steps=STEPS)

    of = [
        value_gradient(draw, score, e, x, condition, strength).cpu().double().flatten()
        for draw in (by_student, by_teacher)
    ]
    return float(of[0] @ of[1] / (of[1] @ of[1]))
