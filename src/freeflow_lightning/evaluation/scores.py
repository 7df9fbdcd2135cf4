"""How good a student is: its samples against a reference, its endpoints against the teacher's,
class by class.
"""

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.evaluation.reference import teacher_endpoints
from freeflow_lightning.evaluation.resources import ONE_CPU, Resources
from freeflow_lightning.metrics import FeatureTable, Score, compare_tables, inception_score
from freeflow_lightning.metrics.scores import (
    class_distance,
    compare_distances,
    mean_distances,
    measure_diversity,
    relative_error,
)
from freeflow_lightning.sampling.draw import Draw, concat_labels, evaluate_rows, labels_of
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.training.output_folder import finite_or_none

log = logging.getLogger(__name__)

NAN = float("nan")


class Endpoints(NamedTuple):
    """Per sample: |f - x| / |x| and |f - x| / |x - z| against the teacher's x of the same noise z,
    [n]; classes [n].
    """

    relative: Tensor
    displacement: Tensor
    labels: Tensor | None


class ClassRow(NamedTuple):
    """One class; NaN where a figure was not measured.

    Args:
        label: of the class.
        samples: how many were measured.
        kid: unbiased kernel distance to the reference.
        kid_floor: the teacher's own.
        endpoint: mean relative error at the end of the teacher's paths.
        diversity: mean distance within the class over the reference's: below 1, modes are lost.
        recognised: the share that a classifier sees as this class.
    """

    label: int
    samples: int
    kid: float
    kid_floor: float
    endpoint: float
    diversity: float
    recognised: float


class Result(NamedTuple):
    """All scores by name, the teacher's own (empty for given statistics), classes, and how it was
    made.
    """

    scores: dict[str, Score]
    floor: dict[str, Score]
    classes: list[ClassRow]
    about: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        scores = {"scores": self.scores, "floor": self.floor}
        tables = {
            name: {key: score._asdict() for key, score in table.items()}
            for name, table in scores.items()
        }
        return finite_or_none(
            tables | {"classes": [row._asdict() for row in self.classes], "about": self.about}
        )


def endpoint_errors(
    sampler: Sampler,
    truth: TeacherSampler,
    which: Draw,
    n: int,
    *,
    resources: Resources = ONE_CPU,
) -> Endpoints:
    """Return how far a sampler's samples 0 .. n - 1 are from the teacher's of the same noise; the
    teacher's are cached.

    The error says how well the student follows the teacher's paths. A small one is enough for good
    samples, and not needed for them: the correction objective may lead another way to the same
    distribution.
    """
    index = torch.arange(n)
    x = teacher_endpoints(truth, which, index, resources=resources)
    relative, displacement, labels = [], [], []
    for rows in index.split(resources.batch_size):
        z, condition = which.noise(truth.teacher, rows, resources.device)
        drawn = evaluate_rows(sampler, z, condition).cpu()
        relative.append(relative_error(drawn, x[rows]))
        displacement.append(relative_error(drawn, x[rows], origin=z.cpu()))
        labels.append(labels_of(truth.teacher, condition))
    return Endpoints(torch.cat(relative), torch.cat(displacement), concat_labels(labels))


def evaluate_tables(
    samples: FeatureTable,
    reference: FeatureTable,
    floor: FeatureTable | None,
    endpoints: Endpoints | None,
    *,
    num_classes: int = 0,
    classifies: bool = False,
    scores_inception: bool = False,
    about: dict[str, Any] | None = None,
) -> Result:
    """Everything that can be said of the tables.

    Args:
        samples: what is measured, all kept as rows.
        reference: what it is compared with.
        floor: as many samples of the reference's own law, for what a perfect sampler would score.
        endpoints: errors along the same noise.
        num_classes: of the teacher.
        classifies: the logits are of as many classes as the teacher's; they count where they know
            those of the reference.
        scores_inception: the logits are Inception's.
        about: how all this was made.
    """
    if classifies and {"logits", "labels"} <= reference.rows.keys():
        share = float(_is_recognised(reference).mean())
        classifies = knows_classes(share, reference.rows["logits"].shape[1])
    options = {"classifies": classifies, "scores_inception": scores_inception}
    scores = _table_scores(samples, reference, **options)
    floors = _table_scores(floor, reference, **options) if floor is not None else {}
    if endpoints is not None:
        scores["endpoint_error"] = Score.mean(endpoints.relative)
        scores["displacement_error"] = Score.mean(endpoints.displacement)
    rows = []
    if num_classes:
        rows = _class_rows(samples, reference, floor, endpoints, num_classes, classifies)
    return Result(scores, floors, rows, about or {})


def _table_scores(
    table: FeatureTable, reference: FeatureTable, *, classifies: bool, scores_inception: bool
) -> dict[str, Score]:
    made = compare_tables(table, reference)
    if scores_inception:
        made["inception_score"] = inception_score(table.rows["logits"])
    if "features" in reference.rows:
        made["diversity"] = measure_diversity(table.rows, reference.rows)
    if classifies and "labels" in table.rows:
        made["recognised"] = Score.share(
            float(_is_recognised(table).mean()), len(table.rows["labels"])
        )
    if "modes" in table.rows:
        made["modes"] = Score(len(table.rows["modes"].unique()))
    return made


def _class_rows(
    samples: FeatureTable,
    reference: FeatureTable,
    floor: FeatureTable | None,
    endpoints: Endpoints | None,
    num_classes: int,
    classifies: bool,
) -> list[ClassRow]:
    labels = samples.rows.get("labels")
    if labels is None:
        return []
    comparable = "labels" in reference.rows
    ours, theirs = (mean_distances(t.rows) if comparable else {} for t in (samples, reference))
    made = []
    for c in range(num_classes):
        count = int((labels == c).sum())
        if not count:
            continue
        row = ClassRow(
            label=c,
            samples=count,
            kid=class_distance(samples, reference, c) if comparable else NAN,
            kid_floor=class_distance(floor, reference, c) if comparable and floor else NAN,
            endpoint=_class_mean(endpoints.relative, endpoints.labels, c) if endpoints else NAN,
            diversity=compare_distances(ours.get(c, NAN), theirs.get(c, NAN)),
            recognised=_class_mean(_is_recognised(samples), labels, c) if classifies else NAN,
        )
        made.append(row)
    return made


def knows_classes(share: float, num_classes: int) -> bool:
    """Return whether a classifier knows a teacher's classes, and say so where it does not: of
    samples that are beyond doubt it is to recognise twice the share of guessing, or of few classes
    half of the way from there to all.

    Args:
        share: of recognised samples of the reference, or of the teacher at many steps.
        num_classes: among which it chooses.
    """
    if share > min(2 / num_classes, (1 + 1 / num_classes) / 2):
        return True
    log.warning(
        "these features recognise %.1f %% of the reference's own samples, as guessing would: their "
        "classes are others than this teacher's, and the share recognised is left out",
        100 * share,
    )
    return False


def _is_recognised(samples: FeatureTable) -> Tensor:
    """Return which samples a classifier sees as the class asked for, 1 or 0, [n]."""
    return (samples.rows["logits"].argmax(1) == samples.rows["labels"]).double()


def _class_mean(values: Tensor, labels: Tensor | None, c: int) -> float:
    """Return the mean of values [n] over one class; NaN where there is none."""
    if labels is None or not bool((labels == c).any()):
        return NAN
    return float(values[labels == c].mean())
