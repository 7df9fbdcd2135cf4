"""What a claim reads from a student: figures along an axis, with the teacher's beside it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.evaluation.methods import Figures
from freeflow_lightning.evaluation.trajectory_errors import measure_along_delta
from freeflow_lightning.evaluation.yardstick import Yardstick
from freeflow_lightning.metrics import TableBuilder, merge_tables
from freeflow_lightning.sampling.draw import Draw, labels_of, pictures
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.search.algorithms import RandomSearch
from freeflow_lightning.students.search.noise_search import BatchSearchContext, NoiseSearch
from freeflow_lightning.students.search.oracle import FrechetOracle
from freeflow_lightning.students.student_sampler import StudentSampler

DELTAS = 8
GUIDANCE = (1.0, 1.25, 1.5, 1.75, 2.0)
CANDIDATES = (1, 4, 16)
SEARCHED_STEPS = 8
TEACHER_STEPS = (2, 4, 8, 16)
"""Heun steps of the teacher alone, beside the search."""
BATCH = 500


class Reading(NamedTuple):
    """How a student is measured, and its teacher beside it.

    Args:
        axis: what the figures stand over; empty for a single place, 1.
        of_student: the figures of a student, by the place on the axis.
        of_teacher: the teacher's own, likewise.
        is_log: whether places double along the axis.
    """

    axis: str
    of_student: Callable[[Yardstick, FlowMap], Figures]
    of_teacher: Callable[[Yardstick], Figures]
    is_log: bool = False


def by_sample(yardstick: Yardstick, student: FlowMap) -> Figures:
    """Return the figures of one evaluation per sample."""
    return {1: yardstick.figures(StudentSampler(student, yardstick.measure.guidance))}


def by_guidance(yardstick: Yardstick, student: FlowMap) -> Figures:
    """Return the same at each gamma that the student is trained for (Fig. 10)."""
    low, high = student.guidance_range
    gammas = [gamma for gamma in GUIDANCE if low <= gamma <= high]
    return {gamma: yardstick.figures(StudentSampler(student, gamma)) for gamma in gammas}


def by_delta(yardstick: Yardstick, student: FlowMap) -> Figures:
    """Return the mean distance of f(z, delta) to the teacher's state there, over that state's norm
    (Fig. 4).
    """
    measure = yardstick.measure
    z, condition = Draw().noise(
        student.teacher, torch.arange(measure.paired_samples), yardstick.device
    )
    found = measure_along_delta(
        student,
        z,
        condition,
        measure.guidance,
        points=min(DELTAS, measure.teacher_steps),
        steps=measure.teacher_steps,
        batch_size=BATCH,
    )
    means = found.errors.mean(dim=1)
    return {float(d): {"error": float(e)} for d, e in zip(found.delta, means, strict=True)}


@torch.no_grad()
def by_search(yardstick: Yardstick, student: FlowMap) -> Figures:
    """Return the teacher's samples from the best of several noises, over the evaluations of both
    (Fig. 8).

    The student tries each noise, and the oracle, who knows the reference, picks.
    """
    measure, n = yardstick.measure, yardstick.measure.samples
    steps = min(SEARCHED_STEPS, measure.teacher_steps)
    sampler = TeacherSampler(student.teacher, "heun", steps, measure.guidance)
    setting = NoiseSearch(student, _no_score, RandomSearch(1), sampler, batch_size=BATCH)
    batches = torch.arange(n).split(BATCH)
    contexts = [BatchSearchContext(setting, Draw(), index) for index in batches]
    noise = [_candidates(context) for context in contexts]
    seen = [
        torch.stack([_features(yardstick, context.student(z)) for z in tried])
        for context, tried in zip(contexts, noise, strict=True)
    ]
    features = torch.cat(seen, dim=1)
    oracle = FrechetOracle(yardstick.reference.moments["features"])
    found: dict[float, dict[str, float]] = {}
    for count in CANDIDATES:
        builder = TableBuilder(yardstick.features, kept=n)
        choice = oracle.pick(features[:count]).split(BATCH)
        for context, tried, picked in zip(contexts, noise, choice, strict=True):
            rows = torch.arange(len(picked))
            drawn = sampler(torch.stack(tried)[picked, rows], context.condition)
            seen_now = pictures(student.teacher, drawn)
            builder.add(context.index, seen_now, labels_of(student.teacher, context.condition))
        found[count + 2 * steps] = yardstick.score(merge_tables([builder.part()]))
    return found


def _candidates(context: BatchSearchContext) -> list[Tensor]:
    """Return every noise that is tried for the samples of a batch."""
    return [context.noise(range(k, k + 1)) for k in range(CANDIDATES[-1])]


def _features(yardstick: Yardstick, x: Tensor) -> Tensor:
    return yardstick.features(pictures(yardstick.truth.teacher, x))


def _no_score(samples: Tensor, condition: object) -> Tensor:
    """Return the score of a search that an oracle decides."""
    return torch.zeros(len(samples))


def _nothing(yardstick: Yardstick) -> Figures:
    return {}


def teacher_itself(yardstick: Yardstick) -> Figures:
    """As many of the teacher's own samples: what a perfect student would have."""
    return {1: yardstick.floor()}


def teacher_by_evaluations(yardstick: Yardstick) -> Figures:
    """Return the teacher alone, two evaluations for each step."""
    teacher, measure = yardstick.truth.teacher, yardstick.measure
    return {
        2 * steps: yardstick.figures(TeacherSampler(teacher, "heun", steps, measure.guidance))
        for steps in TEACHER_STEPS
        if steps <= measure.teacher_steps
    }


READINGS = {
    "sample": Reading("", by_sample, teacher_itself),
    "steps": Reading(
        "evaluations per sample", Yardstick.by_steps, Yardstick.teacher_by_steps, True
    ),
    "delta": Reading("delta", by_delta, _nothing),
    "guidance": Reading("guidance scale", by_guidance, _nothing),
    "search": Reading(
        "evaluations per sample, student's and teacher's", by_search, teacher_by_evaluations, True
    ),
}
"""By the name that a claim calls them."""
