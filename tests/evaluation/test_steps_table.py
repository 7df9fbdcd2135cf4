"""What judges the lines of a report."""

import pytest
import torch

from freeflow_lightning.evaluation import steps_table
from freeflow_lightning.evaluation.steps_table import BATCH, Judge, compare_halves
from freeflow_lightning.metrics import (
    FeatureNetwork,
    FlatFeatures,
    FrechetDistance,
    frechet_distance,
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
