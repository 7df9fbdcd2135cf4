"""How good a student is: its samples against a reference, its endpoints against the teacher's,
class by class.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.evaluation.reference import teacher_endpoints
from freeflow_lightning.metrics import FeatureTable, Score, compare, inception_score
from freeflow_lightning.metrics.scores import class_distance, relative_error, spread_within_classes
from freeflow_lightning.sampling.draw import Draw, evaluate_rows, labels_of
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.training.output_folder import finite_or_none

NAN = float("nan")


class Endpoints(NamedTuple):
    """Per sample: |f - x| / |x| and |f - x| / |x - z| against the teacher's x of the same noise z,
    [n]; classes [n].
    """

    relative: Tensor
    displacement: Tensor
    labels: Tensor | None


class ClassRow(NamedTuple):
    """One class: unbiased kernel distance to the reference and the teacher's own (floor), endpoint error, diversity
    (mean distance within the class over the reference's: below 1, modes are lost), and the share that is recognised."""

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
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> Endpoints:
    """How far a sampler's samples 0 .. n - 1 are from the teacher's of the same noise; the
    teacher's are cached.

    The error says how well the student follows the teacher's paths. A small one is enough for good
    samples, and not needed for them: the correction objective may lead another way to the same
    distribution.
    """
    index = torch.arange(n)
    x = teacher_endpoints(truth, which, index, batch_size=batch_size, device=device)
    relative, displacement, labels = [], [], []
    for rows in index.split(batch_size):
        z, condition = which.noise(truth.teacher, rows, device)
        drawn = evaluate_rows(sampler, z, condition).cpu()
        relative.append(relative_error(drawn, x[rows]))
        displacement.append(relative_error(drawn, x[rows], origin=z.cpu()))
        labels.append(labels_of(truth.teacher, condition))
    known = [part for part in labels if part is not None]
    return Endpoints(
        torch.cat(relative), torch.cat(displacement), torch.cat(known) if known else None
    )


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
        classifies: the logits are those of the teacher's classes.
        scores_inception: the logits are Inception's.
        about: how all this was made.
    """
    scores = compare(samples, reference)
    floors = compare(floor, reference) if floor is not None else {}
    for table, made in ((samples, scores), *([(floor, floors)] if floor is not None else [])):
        if scores_inception:
            made["inception_score"] = inception_score(table.rows["logits"])
        if "features" in reference.rows:
            made["diversity"] = _diversity(table, reference)
        if classifies and "labels" in table.rows:
            right = (table.rows["logits"].argmax(1) == table.rows["labels"]).double()
            made["recognised"] = Score.share(float(right.mean()), len(right))
    if endpoints is not None:
        scores["endpoint_error"], scores["displacement_error"] = (
            _mean(endpoints.relative),
            _mean(endpoints.displacement),
        )
    rows = (
        _class_rows(samples, reference, floor, endpoints, num_classes, classifies)
        if num_classes
        else []
    )
    return Result(scores, floors, rows, about or {})


def _mean(values: Tensor) -> Score:
    n = len(values)
    return Score.around(
        float(values.mean()), float(values.double().std()) / n**0.5 if n > 1 else NAN
    )


def _diversity(samples: FeatureTable, reference: FeatureTable) -> Score:
    """Mean distance within a class over the reference's, averaged over the classes that both have."""
    ours, theirs = spread_within_classes(samples), spread_within_classes(reference)
    if ours.keys() != theirs.keys() and -1 in (
        *ours,
        *theirs,
    ):  # pictures without classes on one side
        ours, theirs = (
            spread_within_classes(t._replace(rows={"features": t.rows["features"]}))
            for t in (samples, reference)
        )
    ratios = torch.tensor([ours[c] / theirs[c] for c in ours.keys() & theirs.keys()]).double()
    ratios = ratios[torch.isfinite(ratios)]
    return _mean(ratios) if len(ratios) else Score(NAN)


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
    ours, theirs = (spread_within_classes(t) if comparable else {} for t in (samples, reference))
    made = []
    for c in range(num_classes):
        mine = labels == c
        if not bool(mine.any()):
            continue
        paired = (
            endpoints is not None
            and endpoints.labels is not None
            and bool((endpoints.labels == c).any())
        )
        made.append(
            ClassRow(
                c,
                int(mine.sum()),
                class_distance(samples, reference, c) if comparable else NAN,
                class_distance(floor, reference, c) if comparable and floor is not None else NAN,
                float(endpoints.relative[endpoints.labels == c].mean())
                if paired and endpoints is not None
                else NAN,
                ours[c] / theirs[c] if c in ours and c in theirs else NAN,
                float((samples.rows["logits"][mine].argmax(1) == c).double().mean())
                if classifies
                else NAN,
            )
        )
    return made
