"""The options that freeflow search has alone: how noise is found, who judges it, and who draws last."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from freeflow_lightning.commands.options import Options, Rule, WorkOptions
from freeflow_lightning.sampling.jumps import Jumps
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.search import ALGORITHMS, Algorithm, ClassScore, Verifier
from freeflow_lightning.students.search.noise_search import NoiseSearch, freeze


@dataclass(frozen=True, kw_only=True)
class AlgorithmOptions(Options):
    """how better noise is found

    Args:
        candidates: noises per sample that the student tries.
        algorithm: random (best of N), zero_order (climb from one noise to better ones around it) or
            paths (the teacher's paths branch on their way, the best go on: this takes evaluations
            of the teacher during the search).
        neighbours: of zero_order: noises tried around the pivot in one round; 4 if not given.
        radius: of zero_order: size of the neighbourhood, above 0 (the pivot) to 1 (any noise); 0.4
            if not given.
        paths: of paths: paths that are kept in each round; 2 if not given.
        branches: of paths: branches of each path; 2 if not given.
        start_time: of paths: time of the first branching, between 1 (noise) and 0; 0.5 if not
            given.
        forward: of paths: time that a branch is noised up by; 0.25 if not given.
        backward: of paths: time that the teacher leads it back by; 0.5 if not given.
        path_steps: of paths: the teacher's steps from time 1 to 0 during the search; 8 if not
            given.
    """

    candidates: int = 64
    algorithm: Literal["random", "zero_order", "paths"] = "random"
    neighbours: int | None = None
    radius: float | None = None
    paths: int | None = None
    branches: int | None = None
    start_time: float | None = None
    forward: float | None = None
    backward: float | None = None
    path_steps: int | None = None

    def build(self) -> Algorithm:
        """The algorithm (Raises: ValueError for options that it does not have)."""
        kind = ALGORITHMS[self.algorithm]
        given = {
            "neighbours": self.neighbours,
            "radius": self.radius,
            "paths": self.paths,
            "branches": self.branches,
            "start": self.start_time,
            "forward": self.forward,
            "backward": self.backward,
        }
        given = {option: value for option, value in given.items() if value is not None}
        known = inspect.signature(kind).parameters
        stray = ["start_time" if name == "start" else name for name in given if name not in known]
        if self.path_steps is not None and self.algorithm != "paths":
            stray.append("path_steps")
        if stray:
            flags = ", ".join(f"--{name}" for name in stray)
            raise ValueError(
                f"{flags} has no effect on --algorithm {self.algorithm}: leave it out, or choose "
                f"the algorithm that has it"
            )
        if self.path_steps is not None and self.path_steps < 1:
            raise ValueError(f"expected --path_steps of at least 1, got {self.path_steps}")
        return kind(candidates=self.candidates, **given)


@dataclass(frozen=True, kw_only=True)
class FinalOptions(Options):
    """who judges, and who draws the final sample

    Args:
        verifier: what scores samples: ClassScore (a classifier's log probability of the class asked
            for), TargetDistance, or the import path of your own function or class, called as
            verifier(samples, condition) -> scores [B], higher is better; samples are uint8 pictures
            [B, C, H, W]. Options as --verifier.NAME. ClassScore for the digits if not given.
        teacher_steps: the teacher's steps for the final sample; 0 keeps the student's.
        teacher_method: the teacher's one-step rule.
    """

    verifier: Callable | None = None
    teacher_steps: int = 16
    teacher_method: Rule = "heun"

    def check_steps(self) -> None:
        """Raise a ValueError for negative steps."""
        if self.teacher_steps < 0:
            raise ValueError(
                f"expected no negative steps, got --teacher_steps {self.teacher_steps}: 0 keeps "
                f"the student's samples"
            )

    def search_of(
        self,
        student: FlowMap,
        guidance: float,
        how: AlgorithmOptions,
        way: Jumps,
        work: WorkOptions,
    ) -> NoiseSearch:
        """The search with a student at a guidance (Raises: ValueError for steps that it was not
        trained for).
        """
        student.check_guidance(guidance)
        way.check_trained(student.pairs)
        judge = freeze(pick_verifier(self.verifier, student), student.device)
        final = TeacherSampler(student.teacher, self.teacher_method, self.teacher_steps, guidance)
        return NoiseSearch(
            student,
            judge,
            how.build(),
            final,
            how.path_steps or 8,
            work.batch_size,
            work.decode_batch_size,
            way,
        )


def pick_verifier(verifier: Verifier | None, student: FlowMap) -> Verifier:
    """The given one, or the digits' classifier for digits (Raises: ValueError for others without
    one).
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
