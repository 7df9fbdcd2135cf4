"""How far a student's paths are from its teacher's, and the teacher's coarse solutions from fine."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow import EVALUATIONS, take
from freeflow_lightning.metrics.scores import relative_error
from freeflow_lightning.sampling.draw import evaluate_rows
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.teachers import Teacher

STEPS = (1, 2, 4, 8, 16, 32, 64)


class TrajectoryErrors(NamedTuple):
    """At each delta [K]: the teacher's ODE and the student's f(z, delta), [K, B, ...], and their
    relative distance [K, B].
    """

    delta: Tensor
    teacher: Tensor
    student: Tensor
    errors: Tensor


@torch.no_grad()
def measure_along_delta(
    student: FlowMap,
    z: Tensor,
    condition: Any,
    guidance: float,
    *,
    points: int = 16,
    steps: int = 64,
    batch_size: int = 256,
) -> TrajectoryErrors:
    """Student and teacher's Heun solution from the same noise at `points` equal values of delta up
    to 1 (Fig. 4).

    `steps` is a multiple of `points`. A student that maps noise to data alone is compared there
    alone, K = 1.
    """
    points = points if student.pairs.leads_between else 1
    deltas = torch.arange(1, points + 1) / points
    sampler, stride = TeacherSampler(student.teacher, "heun", steps, guidance), steps // points
    teacher, drawn = [], []
    for rows in torch.arange(len(z), device=z.device).split(batch_size):
        noise, c = z[rows], take(condition, rows)
        teacher.append(sampler.path(noise, c)[stride::stride].cpu())
        drawn.append(
            torch.stack([student(noise, c, guidance, float(delta)) for delta in deltas]).cpu()
        )
    truth, ours = torch.cat(teacher, 1), torch.cat(drawn, 1)
    errors = torch.stack([relative_error(a, b) for a, b in zip(ours, truth, strict=True)])
    return TrajectoryErrors(deltas, truth, ours, errors)


def measure_solver_errors(
    teacher: Teacher,
    z: Tensor,
    condition: Any,
    guidance: float,
    *,
    fine: int = 256,
    methods: Sequence[str] = ("euler", "heun", "midpoint"),
    advance: Callable[[int], None] | None = None,
) -> dict[str, dict[int, float]]:
    """Mean relative distance of N steps of each method to `fine` Heun steps, by method and N.

    A student of the discrete objective learns the solution of its own grid: it cannot come closer
    to the teacher than this.
    """

    def solve_in(method: str, steps: int) -> Tensor:
        x = evaluate_rows(TeacherSampler(teacher, method, steps, guidance), z, condition).cpu()
        if advance is not None:
            advance(steps * EVALUATIONS[method])
        return x

    truth = solve_in("heun", fine)
    return {
        m: {n: float(relative_error(solve_in(m, n), truth).mean()) for n in STEPS if n < fine}
        for m in methods
    }


def recommend_steps(errors: dict[int, float], tolerance: float) -> int | None:
    """Return the smallest N within the tolerance; None if none is.

    >>> recommend_steps({4: 0.05, 8: 0.01, 16: 0.002}, 0.02)
    8
    """
    return min((n for n, error in errors.items() if error <= tolerance), default=None)


def count_equal_steps(errors: dict[int, float], error: float) -> int | None:
    """Return the largest N whose error is still above a student's: it is worth more than N steps.
    None where one step is better.

    >>> count_equal_steps({1: 0.4, 2: 0.2, 4: 0.1}, 0.15)
    2
    """
    return max((n for n, e in errors.items() if e > error), default=None)


def mean_by_class(errors: Tensor, labels: Tensor | None) -> dict[int, float]:
    """Mean endpoint error of each class, worst first; empty without classes."""
    if labels is None:
        return {}
    means = {int(c): float(errors[labels == c].mean()) for c in labels.unique()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))
