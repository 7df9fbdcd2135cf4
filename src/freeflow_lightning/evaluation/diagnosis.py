"""Where a student goes wrong: along the trajectory, in its velocities, in its auxiliary network;
and what its solver allows.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow import (
    EVALUATIONS,
    CentralDifference,
    expand,
    flow_map,
    interpolate,
    take,
    training_generator,
)
from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.metrics.scores import relative_error, spread
from freeflow_lightning.metrics.support import nearest
from freeflow_lightning.objectives import auxiliary as auxiliary_residual
from freeflow_lightning.objectives import equalise
from freeflow_lightning.sampling.draw import Draw, evaluate_rows, labels_of, pictures
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import TrainedAuxiliary
from freeflow_lightning.students.student_sampler import StudentSampler
from freeflow_lightning.teachers import Teacher

STEPS = (1, 2, 4, 8, 16, 32, 64)
PLACES = tuple((k + 0.5) / 8 for k in range(8))
"""Middles of eight bins of delta or r."""


class Path(NamedTuple):
    """At each delta [K]: the teacher's ODE and the student's f(z, delta), [K, B, ...], and their
    relative distance [K, B].
    """

    delta: Tensor
    teacher: Tensor
    student: Tensor
    errors: Tensor


class Gaps(NamedTuple):
    """Root mean squares per element at each place [K]: of a velocity difference, and of the
    teacher's velocity there.
    """

    place: Tensor
    gap: Tensor
    size: Tensor


class Lag(NamedTuple):
    """The auxiliary's loss at each r [K]: now, after more steps with the student held still, the
    teacher's in its place.
    """

    r: Tensor
    now: Tensor
    later: Tensor
    teacher: Tensor

    @property
    def gained(self) -> float:
        """The share of its loss that the auxiliary network still had to gain."""
        return float(1 - self.later.mean() / self.now.mean())


@torch.no_grad()
def along_delta(
    student: FlowMap,
    z: Tensor,
    condition: Any,
    guidance: float,
    *,
    points: int = 16,
    steps: int = 64,
    batch_size: int = 256,
) -> Path:
    """Student and teacher's Heun solution from the same noise at `points` equal values of delta up
    to 1 (Fig. 4).

    `steps` is a multiple of `points`.
    """
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
    return Path(deltas, truth, ours, errors)


def solver_errors(
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

    def solved(method: str, steps: int) -> Tensor:
        x = evaluate_rows(TeacherSampler(teacher, method, steps, guidance), z, condition).cpu()
        if advance is not None:
            advance(steps * EVALUATIONS[method])
        return x

    truth = solved("heun", fine)
    return {
        m: {n: float(relative_error(solved(m, n), truth).mean()) for n in STEPS if n < fine}
        for m in methods
    }


def recommended_steps(errors: dict[int, float], tolerance: float) -> int | None:
    """The smallest N within the tolerance; None if none is.

    >>> recommended_steps({4: 0.05, 8: 0.01, 16: 0.002}, 0.02)
    8
    """
    return min((n for n, error in errors.items() if error <= tolerance), default=None)


def equal_steps(errors: dict[int, float], error: float) -> int | None:
    """The largest N whose error is still above a student's: it is worth more than N steps. None
    where one step is better.

    >>> equal_steps({1: 0.4, 2: 0.2, 4: 0.1}, 0.15)
    2
    """
    return max((n for n, e in errors.items() if e > error), default=None)


@torch.no_grad()
def prediction_gap(student: FlowMap, z: Tensor, condition: Any, guidance: float) -> Gaps:
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
    return Gaps(torch.tensor(PLACES), torch.tensor(gaps), torch.tensor(sizes))


@torch.no_grad()
def correction_gap(
    student: FlowMap,
    auxiliary: TrainedAuxiliary,
    z: Tensor,
    condition: Any,
    guidance: float,
    seed: int = 0,
) -> Gaps:
    """G - u at the noised samples, u guided inside the interval alone (see Eq. 11)."""
    one = torch.ones(len(z), device=z.device)
    f, n = student(z, condition, guidance), _noise(z, seed)
    teacher = student.teacher.guided_velocity(
        condition, gamma=guidance, interval=auxiliary.guidance_interval
    )
    gaps, sizes = [], []
    for r in (place * one for place in PLACES):
        x_r = interpolate(f, n, r)
        u = teacher(x_r, r)
        gaps.append(_rms(auxiliary.network(x_r, r, condition, gamma=guidance * one) - u))
        sizes.append(_rms(u))
    return Gaps(torch.tensor(PLACES), torch.tensor(gaps), torch.tensor(sizes))


def auxiliary_lag(
    student: FlowMap,
    auxiliary: TrainedAuxiliary,
    which: Draw,
    guidance: float,
    *,
    steps: int = 100,
    batch_size: int = 256,
    samples: int = 512,
    advance: Callable[[int], None] | None = None,
) -> Lag:
    """How far the auxiliary network is behind the student: what more training of it alone would
    gain (see Eq. 12).

    A copy of G trains for `steps` more steps as before while the student stands still; the same
    held-out draws judge both. The teacher's velocity in G's place is the optimum of a student whose
    samples are the teacher's (unguided).
    """
    device = student.device
    twin = copy.deepcopy(auxiliary.network)
    optimizer = torch.optim.Adam(
        [p for p in twin.parameters() if p.requires_grad], lr=auxiliary.lr, betas=(0.9, 0.99)
    )  # Table 6
    z, condition = which.noise(student.teacher, torch.arange(samples), device)
    one, n = torch.ones(samples, device=device), _noise(z, which.seed)

    @torch.no_grad()
    def held_out(network: Callable[..., Tensor]) -> Tensor:
        losses = []
        for rows in torch.arange(samples, device=device).split(batch_size):
            c, gamma = take(condition, rows), guidance * one[rows]
            f = student(z[rows], c, guidance)
            for r in (place * one[rows] for place in PLACES):
                error = network(interpolate(f, n[rows], r), r, c, gamma=gamma) - (f - n[rows])
                losses.append(error.flatten(1).square().mean(1).sum())
        return torch.stack(losses).view(-1, len(PLACES)).sum(0).cpu() / samples

    now = held_out(auxiliary.network)
    for step in range(steps):
        generator = training_generator(which.seed, 0, step, device)
        noise = torch.randn(
            batch_size, *student.teacher.sample_shape, generator=generator, device=device
        )
        c = student.teacher.draw_condition(batch_size, generator)
        low, high = auxiliary.guidance_range
        gamma = low + (high - low) * torch.rand(batch_size, generator=generator, device=device)
        epsilon = torch.randn(noise.shape, generator=generator, device=device)
        r = auxiliary.r.sample(batch_size, generator)
        f = student(noise, c, gamma)
        output = twin(interpolate(f, epsilon, r), r, c, gamma=gamma)
        residual = auxiliary_residual(twin, f, epsilon, r, output=output)
        if auxiliary.output_scale is not None:
            residual = equalise(residual, auxiliary.output_scale(r) ** 2)
        optimizer.zero_grad()
        residual.surrogate().mean().backward()
        optimizer.step()
        if advance is not None:
            advance(1)
    later = held_out(twin)
    teacher = held_out(lambda x, r, c, gamma: student.teacher(x, r, c))
    return Lag(torch.tensor(PLACES), now, later, teacher)


def _noise(z: Tensor, seed: int) -> Tensor:
    """Noise n of the shape of z, a function of the seed."""
    return torch.randn(z.shape, generator=training_generator(seed, 1, 0)).to(z)


def _rms(x: Tensor) -> float:
    return float(x.flatten(1).square().mean(1).sqrt().mean())


class Pairs(NamedTuple):
    """Student's and teacher's samples of other noise: pictures, features, and each one's nearest on
    the other side.
    """

    student: Tensor
    teacher: Tensor
    to_teacher: tuple[Tensor, Tensor]
    to_student: tuple[Tensor, Tensor]
    diversity: float


def neighbours(
    sampler: StudentSampler, network: FeatureNetwork, n: int, seed: int, batch_size: int
) -> Pairs:
    """n samples of either side, of different noise, and each one's nearest on the other side in
    feature space.
    """
    teacher, device = sampler.teacher, sampler.flow_map.device
    drawn, seen, kinds = [], [], []
    samplers: dict[str, Sampler] = {
        "diagnosis/student": sampler,
        "diagnosis/teacher": TeacherSampler(teacher, "heun", 64, sampler.guidance),
    }
    for stream, draws in samplers.items():
        parts, looks, labels = [], [], []
        for index in torch.arange(n).split(batch_size):
            z, condition = Draw(seed, stream=stream).noise(teacher, index, device)
            parts.append(pictures(teacher, evaluate_rows(draws, z, condition)))
            with torch.no_grad():
                looks.append(network(parts[-1]).float().cpu())
            labels.append(labels_of(teacher, condition))
        drawn.append(torch.cat(parts).cpu())
        seen.append(torch.cat(looks))
        kinds.append(
            torch.cat([part for part in labels if part is not None])
            if labels[0] is not None
            else torch.zeros(n)
        )
    (a, b), (la, lb) = seen, kinds
    classes = [c for c in la.unique() if int((la == c).sum()) > 1 and int((lb == c).sum()) > 1]
    ratios = [spread(a[la == c]) / spread(b[lb == c]) for c in classes]
    diversity = sum(ratios) / len(ratios) if ratios else spread(a) / spread(b)
    return Pairs(drawn[0], drawn[1], nearest(a, b), nearest(b, a), diversity)


def class_errors(errors: Tensor, labels: Tensor | None) -> dict[int, float]:
    """Mean endpoint error of each class, worst first; empty without classes."""
    if labels is None:
        return {}
    means = {int(c): float(errors[labels == c].mean()) for c in labels.unique()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))
