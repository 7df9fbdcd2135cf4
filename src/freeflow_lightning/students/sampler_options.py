"""Who draws, a student or its teacher, and which samples: of the words that a user gives."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from freeflow_lightning.flow import check_counts
from freeflow_lightning.flow.pairs import SamplerName
from freeflow_lightning.sampling.draw import Draw, balanced_classes
from freeflow_lightning.sampling.jumps import SIDE_BY_SIDE
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.student_sampler import StudentSampler
from freeflow_lightning.teachers import Teacher


class StepOptions(NamedTuple):
    """What the user says of the way from noise to samples: see commands.options.SamplerOptions."""

    steps: int | None = None
    method: str | None = None
    sampler: SamplerName | None = None
    noise_share: float | None = None


def sampler_of_options(
    student: FlowMap, guidance: float, teacher_draws: bool, told: StepOptions
) -> Sampler:
    """Return the student or its teacher, at a guidance.

    Raises:
        ValueError: options of the one where the other draws, steps that the student was not trained
            for, or a guidance below 0.
    """
    if told.method is not None and not teacher_draws:
        raise ValueError("--method is the teacher's: add --teacher, or leave it out")
    if teacher_draws and (told.sampler is not None or told.noise_share is not None):
        raise ValueError(
            "--sampler and --noise_share are the student's, and here the teacher draws: leave them "
            "out"
        )
    if teacher_draws:
        steps = 64 if told.steps is None else told.steps
        return TeacherSampler(student.teacher, told.method or "heun", steps, guidance)
    steps = 1 if told.steps is None else told.steps
    return StudentSampler(student, guidance, steps, told.sampler or "chain", told.noise_share)


def samplers_side_by_side(
    student: FlowMap, guidance: float, teacher_draws: bool, told: StepOptions
) -> list[Sampler]:
    """Return who draws at a guidance; a student at each number of `SIDE_BY_SIDE` that it was
    trained for, if no steps are given.
    """
    numbers = student.trained.numbers(SIDE_BY_SIDE)
    if teacher_draws or told.steps is not None or numbers == [1]:
        return [sampler_of_options(student, guidance, teacher_draws, told)]
    way = told._replace(sampler=told.sampler or student.trained.sampler)
    return [sampler_of_options(student, guidance, False, way._replace(steps=k)) for k in numbers]


def draw_of_options(
    teacher: Teacher, seed: int, classes: Sequence[int] | None, balanced: bool
) -> Draw:
    """Of --seed, --classes and --balanced (Raises: ValueError for both of the last, or classes that
    there are not, none among them, and a seed that is no integer).
    """
    check_counts(-math.inf, seed=seed)
    given = None if classes is None else tuple(classes)
    if given == ():
        raise ValueError("--classes names no class: leave it out for drawn ones")
    if given and balanced:
        raise ValueError("--balanced takes every class in turn: leave --classes out")
    draw = Draw(seed, balanced_classes(teacher) if balanced else given)
    # refuses classes that there are not, before anything is drawn
    draw.noise(teacher, torch.zeros(1, dtype=torch.int64))
    return draw
