"""Samples of any sampler against one reference: the teacher's own samples, or given statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple

from freeflow_lightning.evaluation.reference import draw_table, teacher_table
from freeflow_lightning.evaluation.resources import ONE_CPU, Resources
from freeflow_lightning.evaluation.scores import Endpoints, Result, endpoint_errors, evaluate_tables
from freeflow_lightning.metrics import (
    FeatureNetwork,
    FeatureTable,
    InceptionFeatures,
    warn_of_few_samples,
)
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler

Start = Callable[[str, int | None], Callable[[int], None]]
"""Told what begins and of how many samples; returns what is told the number of each batch."""


class TeacherReference(NamedTuple):
    """The teacher's own samples, which others are compared with.

    Args:
        sampler: draws them.
        num_samples: how many.
        seed: of their noise, which is never that of the samples measured.
        with_floor: draw as many as are measured a second time: what a perfect student would score.
    """

    sampler: TeacherSampler
    num_samples: int
    seed: int
    with_floor: bool


class Comparison(NamedTuple):
    """What samples are compared with, and how.

    Args:
        which: the samples that are measured.
        num_samples: how many.
        features: the network that sees them.
        truth: the teacher; endpoints are compared with its own.
        pairs: samples whose endpoint is compared.
        reference: what the features are compared with; None on other processes than the first.
        floor: the teacher's second draw, if there is one.
        resources: where it runs.
    """

    which: Draw
    num_samples: int
    features: FeatureNetwork
    truth: TeacherSampler
    pairs: int
    reference: FeatureTable | None
    floor: FeatureTable | None = None
    resources: Resources = ONE_CPU

    def with_teacher(self, teacher: TeacherReference, start: Start) -> "Comparison":
        """Return the comparison with the teacher's own samples, read from the cache or drawn."""

        def table(stream: str, count: int) -> FeatureTable | None:
            return teacher_table(
                teacher.sampler,
                self.features,
                count=count,
                seed=teacher.seed,
                stream=stream,
                classes=self.which.classes,
                resources=self.resources,
                advance=start(f"teacher, {stream}", count),
            )

        reference = table("reference", teacher.num_samples)
        floor = table("floor", self.num_samples) if teacher.with_floor else None
        return self._replace(reference=reference, floor=floor)

    def measure(self, sampler: Sampler, about: dict[str, Any], start: Start) -> Result | None:
        """Draw a sampler's samples and score them, with what is to be said about them.

        Returns:
            The scores on the first process, None on the others.
        """
        table = draw_table(
            sampler,
            self.features,
            self.which,
            count=self.num_samples,
            kept=self.num_samples,
            resources=self.resources,
            advance=start(sampler.name, self.num_samples),
        )
        if table is None:
            return None
        assert self.reference is not None  # the first process has it
        warn_of_few_samples(min(table.n, self.reference.n or table.n), self.features.num_features)
        num_classes = self.truth.teacher.num_classes
        return evaluate_tables(
            table,
            self.reference,
            self.floor,
            self._endpoints(sampler, start),
            num_classes=num_classes,
            classifies=self.features.classifies(num_classes),
            scores_inception=isinstance(self.features, InceptionFeatures),
            about=sampler.facts() | about,
        )

    def _endpoints(self, sampler: Sampler, start: Start) -> Endpoints | None:
        if not self.pairs:
            return None
        start("endpoints", None)
        return endpoint_errors(
            sampler, self.truth, self.which, self.pairs, resources=self.resources
        )
