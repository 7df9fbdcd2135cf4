"""A noise search from plain values: the algorithm by its name, the verifier, the final sampler."""

import inspect
from typing import Literal

from freeflow_lightning.flow.solver import RuleName
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.search import ALGORITHMS, Algorithm, ClassScore, Verifier

AlgorithmName = Literal["random", "zero_order", "paths", "steer"]


def build_algorithm(
    name: AlgorithmName,
    candidates: int,
    path_steps: int | None,
    given: dict[str, float | str | None],
) -> Algorithm:
    """Return the algorithm of a name.

    Args:
        name: of `ALGORITHMS`.
        candidates: noises per sample that the student tries.
        path_steps: the teacher's steps during the search; of paths alone.
        given: further arguments by name; None for its default.

    Raises:
        ValueError: an unknown name, or arguments that this algorithm does not have.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"expected algorithm {' or '.join(ALGORITHMS)}, got {name!r}")
    kind = ALGORITHMS[name]
    chosen = {option: value for option, value in given.items() if value is not None}
    known = inspect.signature(kind).parameters
    stray = [option for option in chosen if option.removesuffix("_time") not in known]
    if path_steps is not None and name != "paths":
        stray.append("path_steps")
    if stray:
        flags = ", ".join(f"--{option}" for option in stray)
        raise ValueError(
            f"{flags} has no effect on --algorithm {name}: leave it out, or choose the algorithm "
            f"that has it"
        )
    if path_steps is not None and path_steps < 1:
        raise ValueError(f"expected --path_steps of at least 1, got {path_steps}")
    arguments = {option.removesuffix("_time"): value for option, value in chosen.items()}
    return kind(candidates=candidates, **arguments)


def final_sampler(
    student: FlowMap, guidance: float, teacher_steps: int, teacher_method: RuleName
) -> TeacherSampler:
    """Return who draws the final sample; the student's is kept with 0 steps (Raises: ValueError for
    fewer).
    """
    if teacher_steps < 0:
        raise ValueError(
            f"expected no negative steps, got --teacher_steps {teacher_steps}: 0 keeps the "
            f"student's samples"
        )
    return TeacherSampler(student.teacher, teacher_method, teacher_steps, guidance)


def pick_verifier(verifier: Verifier | None, student: FlowMap) -> Verifier:
    """Return the given one, or the digits' classifier for digits (Raises: ValueError for others
    without one).
    """
    if verifier is not None:
        return verifier
    if student.teacher.sample_shape != (1, 8, 8) or student.teacher.num_classes != 10:
        raise ValueError(
            "say what a good sample is: --verifier my_file.MyVerifier (a function or class, "
            "called as verifier(samples, condition) -> scores), --verifier TargetDistance "
            "--verifier.target FILE, or ClassScore with a classifier of yours"
        )
    return ClassScore()
