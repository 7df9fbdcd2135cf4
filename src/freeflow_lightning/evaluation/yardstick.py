"""Yardstick: what all students of a comparison are measured against, drawn once."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from freeflow_lightning.evaluation.reference import draw_table, feature_facts, teacher_table
from freeflow_lightning.evaluation.resources import Resources
from freeflow_lightning.evaluation.scores import Endpoints, endpoint_errors, evaluate_tables
from freeflow_lightning.metrics import (
    FeatureNetwork,
    FeatureTable,
    frechet_distance,
    read_statistics,
)
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.hashes import fingerprint
from freeflow_lightning.sampling.jumps import SIDE_BY_SIDE
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.student_sampler import StudentSampler
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.digests import file_digest

REFERENCE_SEED = 1
"""Of the teacher's samples, as in `freeflow evaluate`."""


class Measure(NamedTuple):
    """How samples are measured.

    Args:
        guidance: gamma of all samples.
        samples: of each student, from the same noise.
        reference_samples: of the teacher; 0 compares with the statistics alone.
        paired_samples: whose endpoint is compared with the teacher's.
        teacher_steps: Heun steps of the teacher's own samples.
        statistics: a file that FID is measured to as well.
    """

    guidance: float
    samples: int = 10_000
    reference_samples: int = 10_000
    paired_samples: int = 512
    teacher_steps: int = 64
    statistics: str | None = None


class Yardstick:
    """Measures samplers: FID to the teacher and to given statistics, endpoint error, recall,
    diversity.

    Args:
        teacher: the one that all students are made from, on `device`.
        features: feature network, on `device`.
        measure: how many samples, and at which guidance.
        device: where to compute.

    Raises:
        FileNotFoundError: no file of statistics.
        ValueError: statistics of another feature network, or nothing to compare with.
    """

    def __init__(
        self, teacher: Teacher, features: FeatureNetwork, measure: Measure, device: torch.device
    ) -> None:
        self.features = features
        self.measure = measure
        self.device = device
        self.resources = Resources(device=device)
        self.truth = TeacherSampler(teacher, "heun", measure.teacher_steps, measure.guidance)
        self.given: FeatureTable | None = None
        if measure.statistics is not None:
            self.given = read_statistics(measure.statistics, features, device=device)
        if measure.reference_samples:
            self.reference = self._teachers("reference", measure.reference_samples)
        elif self.given is not None:
            self.reference = self.given
        else:
            raise ValueError("nothing to compare with: give reference_samples or statistics")

    def facts(self) -> dict[str, Any]:
        """Return all that the figures depend on beside the student, as JSON."""
        statistics = self.measure.statistics
        return {
            "teacher": fingerprint(self.truth.teacher, self.device, self.measure.guidance)[:16],
            "features": feature_facts(self.features),
            "measure": self.measure._asdict() | {"statistics": None},
            "statistics": file_digest(Path(statistics)) if statistics else None,
        }

    def figures(self, sampler: Sampler) -> dict[str, float]:
        """Return the figures of a sampler, by name; its ends against the teacher's too, where it
        has the yardstick's guidance.
        """
        which, n = Draw(), self.measure.samples
        table = draw_table(sampler, self.features, which, count=n, kept=n, resources=self.resources)
        assert table is not None  # there is one process
        paired = min(n, self.measure.paired_samples)
        errors = None
        if paired and sampler.guidance == self.truth.guidance:
            errors = endpoint_errors(sampler, self.truth, which, paired, resources=self.resources)
        return self.score(table, errors)

    def score(self, table: FeatureTable, errors: Endpoints | None = None) -> dict[str, float]:
        """Return the figures of a table of samples, by name."""
        classifies = self.features.classifies(self.truth.teacher.num_classes)
        scores = evaluate_tables(table, self.reference, None, errors, classifies=classifies).scores
        return self._with_statistics({name: score.value for name, score in scores.items()}, table)

    def floor(self) -> dict[str, float]:
        """Return the same of as many further samples of the teacher: what a perfect student would
        have.
        """
        return self.score(self._teachers("floor", self.measure.samples))

    def by_steps(self, flow_map: FlowMap) -> dict[float, dict[str, float]]:
        """Return the figures of a student at every number of steps that it is trained for.

        Several steps are chained, and noised anew between them where the student only maps to data.
        """
        trained = flow_map.trained
        found: dict[float, dict[str, float]] = {}
        for steps in trained.numbers(SIDE_BY_SIDE):
            sampler = StudentSampler(flow_map, self.measure.guidance, steps, trained.sampler)
            found[steps] = self.figures(sampler)
        return found

    def teacher_by_steps(self) -> dict[float, dict[str, float]]:
        """Return the figures of the teacher in as few evaluations, by Euler's rule, one per
        step.
        """
        teacher, guidance = self.truth.teacher, self.measure.guidance
        return {
            steps: self.figures(TeacherSampler(teacher, "euler", steps, guidance))
            for steps in SIDE_BY_SIDE
        }

    def _teachers(self, stream: str, count: int) -> FeatureTable:
        table = teacher_table(
            self.truth,
            self.features,
            count=count,
            seed=REFERENCE_SEED,
            stream=stream,
            resources=self.resources,
        )
        assert table is not None  # there is one process
        return table

    def _with_statistics(self, scores: dict[str, float], table: FeatureTable) -> dict[str, float]:
        if self.given is None or self.given is self.reference:
            return scores
        moments = table.moments["features"]
        distance = frechet_distance(*self.given.moments["features"], *moments)
        return scores | {"fid_to_statistics": float(distance)}


@contextmanager
def student_of(module: Distillation) -> Iterator[FlowMap]:
    """The student of a recipe in training, for as long as it is measured."""
    was_training = module.evaluated.training
    about = {"pairs": module.pairs.value, "starts": module.starts}
    try:
        yield FlowMap(module.evaluated, module.teacher, module.guidance_range, about)
    finally:
        module.evaluated.train(was_training)
