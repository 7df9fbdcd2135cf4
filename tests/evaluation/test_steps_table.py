"""What judges the lines of a report."""

import math

import pytest
import torch

from freeflow_lightning.evaluation import steps_table
from freeflow_lightning.evaluation.scores import evaluate_tables
from freeflow_lightning.evaluation.steps_table import (
    BATCH,
    Judge,
    Line,
    compare_halves,
    without_foreign_classes,
)
from freeflow_lightning.metrics import (
    FeatureNetwork,
    FlatFeatures,
    FrechetDistance,
    TableBuilder,
    frechet_distance,
    merge_tables,
)


class Three(FeatureNetwork):
    """Sees points in the plane, and three classes by their first number."""

    num_features = 2
    num_classes = 3

    def forward(self, samples):
        assert len(samples) <= BATCH
        return samples

    def outputs(self, samples):
        return {"features": self(samples), "logits": torch.eye(3)[samples[:, 0].long()]}


def test_samples_are_seen_a_batch_at_a_time():
    reference, drawn = torch.randn(BATCH + 9, 2), torch.randn(2 * BATCH + 1, 2) + 1
    moments = [part for x in (reference, drawn) for part in (x.mean(0), x.T.cov())]
    assert Judge(reference, Three()).fid(drawn) == pytest.approx(float(frechet_distance(*moments)))


def test_classes_are_recognised_by_a_network_of_these_classes_alone():
    judge, labels = Judge(torch.randn(9, 2), Three()), torch.arange(BATCH + 4) % 3
    drawn = torch.stack([labels, labels], 1).float()
    drawn[0] = 1
    assert judge.accuracy(drawn, labels, 3) == pytest.approx(1 - 1 / (BATCH + 4))
    assert judge.accuracy(drawn, labels, 2) is None
    assert judge.accuracy(drawn, None, 3) is None


@pytest.mark.parametrize(
    ("num_classes", "of_teacher", "known"),
    [(10, 0.1, False), (10, 0.19, False), (10, 0.21, True), (2, 0.7, False), (2, 0.98, True)],
)
def test_shares_of_other_classes_than_the_teachers_are_left_out(num_classes, of_teacher, known):
    lines = [
        Line(name, 1.0, evaluations, 1.0, 0.0, share, 0.1)
        for name, evaluations, share in [
            ("teacher, 2 steps", 4, 0.9),
            ("teacher, 64 steps", 128, of_teacher),
            ("student, 1 step", 1, 0.4),
        ]
    ]
    shares = [line.accuracy for line in without_foreign_classes(lines, num_classes)]
    assert shares == ([0.9, of_teacher, 0.4] if known else [None] * 3)
    unseen = [line._replace(accuracy=None) for line in lines]
    assert without_foreign_classes(unseen, num_classes) == unseen


@pytest.mark.parametrize("known", [True, False])
def test_a_reference_of_other_classes_is_not_recognised(known):
    labels = torch.arange(40) % 4
    seen = labels if known else (labels + 1) % 4
    logits = torch.eye(4)[seen]
    builder = TableBuilder(FlatFeatures(2), kept=40)
    builder.add(torch.arange(40), torch.randint(0, 256, (40, 2), dtype=torch.uint8), labels)
    table = merge_tables([builder.part()])
    table.rows["logits"] = logits
    result = evaluate_tables(table, table, None, None, num_classes=4, classifies=True)
    assert ("recognised" in result.scores) is known
    assert all(math.isnan(row.recognised) is not known for row in result.classes)


def test_distances_are_measured_where_the_reference_is(monkeypatch):
    seen = []

    def note(metric, samples, *, real):
        seen.append((metric.real_features_sum.device.type, samples.device.type))

    monkeypatch.setattr(steps_table, "add_samples", note)
    monkeypatch.setattr(FrechetDistance, "compute", lambda self: 0.0)
    monkeypatch.setitem(steps_table.REAL, "digits", lambda: torch.zeros(4, 2))
    judge = Judge(torch.zeros(4, 2, device="meta"), FlatFeatures(2))
    assert compare_halves(judge, "digits") == 0.0
    assert seen == [("meta", "meta")] * 3
