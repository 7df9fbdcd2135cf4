"""The options that freeflow search has alone: how noise is found, who judges it, and who draws last."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from freeflow_lightning.commands.options import Options
from freeflow_lightning.flow.solver import RuleName


@dataclass(frozen=True, kw_only=True)
class AlgorithmOptions(Options):
    """how better noise is found

    Args:
        candidates: noises per sample that the student tries.
        algorithm: random (best of N), zero_order (climb from one noise to better ones around it),
            paths (the teacher's paths branch on their way, the best go on: this takes evaluations
            of the teacher during the search) or steer (a path towards what scores well, by
            posterior draws of a student of PosteriorModule: candidates in all, and an evaluation
            of the teacher a step).
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
        draws: of steer: posterior draws at each step; 4 if not given.
        strength: of steer: how much a score weighs, exp(strength score); 1 if not given.
        steer_by: of steer: weights of the draws, or the gradient of a verifier that has one, after
            a check of the student's; weights if not given.
    """

    candidates: int = 64
    algorithm: Literal["random", "zero_order", "paths", "steer"] = "random"
    neighbours: int | None = None
    radius: float | None = None
    paths: int | None = None
    branches: int | None = None
    start_time: float | None = None
    forward: float | None = None
    backward: float | None = None
    path_steps: int | None = None
    draws: int | None = None
    strength: float | None = None
    steer_by: Literal["weights", "gradient"] | None = None


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
    teacher_method: RuleName = "heun"
