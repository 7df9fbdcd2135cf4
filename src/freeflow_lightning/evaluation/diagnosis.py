"""Everything that a diagnosis measures of one student at one guidance."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.evaluation.auxiliary_lag import AuxiliaryLag, measure_lag
from freeflow_lightning.evaluation.neighbours import Neighbours, find_neighbours
from freeflow_lightning.evaluation.trajectory_errors import (
    TrajectoryErrors,
    mean_by_class,
    measure_along_delta,
    measure_solver_errors,
)
from freeflow_lightning.evaluation.velocity_gaps import (
    VelocityGaps,
    measure_correction_gap,
    measure_prediction_gap,
)
from freeflow_lightning.flow import take
from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.sampling.draw import Draw, labels_of
from freeflow_lightning.students.open_student import TrainedAuxiliary
from freeflow_lightning.students.student_sampler import StudentSampler

SOLVER_SAMPLES, GAP_SAMPLES = 128, 256


class DiagnosisSize(NamedTuple):
    """How much is measured.

    Args:
        samples: of the student, at least 16.
        fine_steps: Heun steps of the solution that coarser ones are measured against, at least 2.
        auxiliary_steps: further steps that a copy of the auxiliary network trains; 0 for none.
        batch_size: samples per network evaluation.
    """

    samples: int = 512
    fine_steps: int = 256
    auxiliary_steps: int = 100
    batch_size: int = 256

    def check(self) -> None:
        """Raise a ValueError unless all can be measured."""
        if min(self) < 0 or self.samples < 16 or self.batch_size < 1 or self.fine_steps < 2:
            raise ValueError(
                f"expected at least 16 samples, batches of 1 and 2 fine steps, got {self.samples}, "
                f"{self.batch_size} and {self.fine_steps} (auxiliary steps {self.auxiliary_steps})"
            )


class Diagnosis(NamedTuple):
    """What was measured.

    Args:
        path: errors along delta.
        labels: classes of its samples, [B]; None without classes.
        by_class: mean endpoint error of each class, worst first.
        solvers: errors of the teacher's solvers by method and number of steps.
        gaps: of the velocities, by objective.
        neighbours: nearest pairs in feature space.
        lag: of the auxiliary network; None where it was not measured.
    """

    path: TrajectoryErrors
    labels: Tensor | None
    by_class: dict[int, float]
    solvers: dict[str, dict[int, float]]
    gaps: dict[str, VelocityGaps]
    neighbours: Neighbours
    lag: AuxiliaryLag | None

    def as_json(self) -> dict[str, Any]:
        """Return the numbers, without the pictures."""
        means = self.path.errors.mean(1).tolist()
        return {
            "error_along_delta": dict(zip(self.path.delta.tolist(), means, strict=True)),
            "solver_errors": self.solvers,
            "error_by_class": self.by_class,
            "gaps": {name: _as_lists(gap) for name, gap in self.gaps.items()},
            "auxiliary": None if self.lag is None else _as_lists(self.lag),
            "diversity": self.neighbours.diversity,
        }


Report = Callable[[str, int], None]
"""Told what is measured next, and how many of `count_reports` steps have been done."""


def measure_diagnosis(
    sampler: StudentSampler,
    auxiliary: TrainedAuxiliary | None,
    network: FeatureNetwork,
    size: DiagnosisSize,
    *,
    seed: int = 0,
    report: Report = lambda what, steps: None,
) -> Diagnosis:
    """Measure where the student of a sampler goes wrong, at the sampler's guidance.

    Args:
        sampler: the student, with a teacher that has a velocity.
        auxiliary: the network that was trained with it; None where there is none.
        network: says which samples are alike, on the student's device.
        size: how much is measured.
        seed: of the noise and classes.
        report: told what is measured next.
    """
    student, guidance = sampler.flow_map, sampler.guidance
    which = Draw(seed, stream="diagnosis")
    z, condition = which.noise(student.teacher, torch.arange(size.samples), student.device)
    report("error along the trajectory", 0)
    path = measure_along_delta(student, z, condition, guidance, batch_size=size.batch_size)
    labels = labels_of(student.teacher, condition)
    report("solvers", 1)
    few, c_few = z[:SOLVER_SAMPLES], take(condition, slice(SOLVER_SAMPLES))
    solvers = measure_solver_errors(student.teacher, few, c_few, guidance, fine=size.fine_steps)
    report("velocity gaps", 1)
    some, c_some = z[:GAP_SAMPLES], take(condition, slice(GAP_SAMPLES))
    gaps: dict[str, VelocityGaps] = {}
    if student.pairs.leads_between:
        gaps["prediction"] = measure_prediction_gap(student, some, c_some, guidance)
    if auxiliary is not None:
        gaps["correction"] = measure_correction_gap(
            student, auxiliary, some, c_some, guidance, seed
        )
    report("neighbours", 1)
    pairs = find_neighbours(sampler, network, size.samples, seed, size.batch_size)
    report("auxiliary network", 1)
    lag = _measure_lag(sampler, auxiliary, which, size, report)
    by_class = mean_by_class(path.errors[-1], labels)
    return Diagnosis(path, labels, by_class, solvers, gaps, pairs, lag)


def _measure_lag(
    sampler: StudentSampler,
    auxiliary: TrainedAuxiliary | None,
    which: Draw,
    size: DiagnosisSize,
    report: Report,
) -> AuxiliaryLag | None:
    if auxiliary is None or not size.auxiliary_steps:
        return None
    return measure_lag(
        sampler.flow_map,
        auxiliary,
        which,
        sampler.guidance,
        steps=size.auxiliary_steps,
        batch_size=size.batch_size,
        samples=size.samples,
        advance=lambda steps: report("auxiliary network", steps),
    )


def count_reports(size: DiagnosisSize) -> int:
    """Return how many steps `measure_diagnosis` reports in all."""
    return 4 + size.auxiliary_steps


def _as_lists(tensors: VelocityGaps | AuxiliaryLag) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in tensors._asdict().items()}
