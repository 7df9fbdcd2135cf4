from math import isnan

import pytest
import torch

from freeflow_lightning.metrics import (
    DigitsFeatures,
    FeatureTable,
    FlatFeatures,
    TableBuilder,
    compare_tables,
    frechet_distance,
    merge_tables,
)
from freeflow_lightning.metrics.scores import (
    class_distance,
    mean_distance,
    mean_distances,
    measure_diversity,
)


def built(x, labels=None, kept=10**6, network=None, index=None):
    builder = TableBuilder(network or FlatFeatures(x.shape[1]), kept)
    builder.add(torch.arange(len(x)) if index is None else index, x, labels)
    return builder


def gaussians(n, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_parts_of_two_processes_are_the_table_of_one():
    x, labels = gaussians(41), torch.arange(41) % 3
    whole = merge_tables([built(x, labels, kept=30).part()])
    turns = [torch.arange(rank, 41, 2) for rank in range(2)]
    idle = TableBuilder(FlatFeatures(5), 30).part()  # a process without samples
    split = merge_tables([*(built(x[i], labels[i], kept=30, index=i).part() for i in turns), idle])
    assert split.n == whole.n == 41
    assert all(
        torch.equal(split.rows[name], whole.rows[name]) for name in ("index", "features", "labels")
    )
    assert len(whole.rows["index"]) == 30
    for a, b in zip(split.moments["features"], whole.moments["features"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(whole.moments["features"].covariance, x.double().T.cov())


def test_a_table_survives_its_tensors():
    table = merge_tables([built(gaussians(9), torch.arange(9)).part()])
    again = FeatureTable.of_tensors(table.tensors())
    assert again.n == 9
    assert again.rows.keys() == table.rows.keys()
    assert torch.equal(again.moments["features"].covariance, table.moments["features"].covariance)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least two samples to compare, got 1"):
        merge_tables([built(gaussians(1)).part()])
    x = gaussians(3)
    x[1, 1] = torch.inf
    with pytest.raises(ValueError, match="features of the samples are not finite"):
        built(x)


def test_the_scores_of_a_table_are_those_of_its_features():
    x, y = gaussians(300), 1.2 * gaussians(400, seed=1)
    scores = compare_tables(merge_tables([built(x).part()]), merge_tables([built(y).part()]))
    expected = frechet_distance(
        y.double().mean(0), y.double().T.cov(), x.double().mean(0), x.double().T.cov()
    )
    assert scores["fid"].value == pytest.approx(float(expected), rel=1e-9)
    assert list(scores) == ["fid", "kid", "precision", "recall", "density", "coverage"]
    statistics = FeatureTable(0, merge_tables([built(y).part()]).moments, {})
    assert list(compare_tables(merge_tables([built(x).part()]), statistics)) == ["fid"]


def test_the_interval_of_fid_covers_other_noise():
    """The jackknife's standard error is that over fresh draws, within its own noise."""
    reference = merge_tables([built(1.5 * gaussians(5000, seed=99)).part()])._replace(rows={})
    drawn = [
        compare_tables(merge_tables([built(gaussians(400, seed=s)).part()]), reference)["fid"]
        for s in range(40)
    ]
    spread = torch.tensor([score.value for score in drawn]).std()
    said = torch.tensor([(score.high - score.value) / 1.96 for score in drawn]).mean()
    assert 0.7 < float(said / spread) < 1.4


def test_classes_by_themselves():
    x, labels = gaussians(60), torch.arange(60) % 2
    x[labels == 1] *= 0.1  # one class collapses
    table, reference = (
        merge_tables([built(x, labels).part()]),
        merge_tables([built(gaussians(80, seed=1), torch.arange(80) % 2).part()]),
    )
    ours, theirs = mean_distances(table.rows), mean_distances(reference.rows)
    assert ours[0] / theirs[0] == pytest.approx(1, abs=0.2)
    assert ours[1] / theirs[1] == pytest.approx(0.1, abs=0.03)
    assert class_distance(table, reference, 1) > 5 * abs(class_distance(table, reference, 0))


def test_diversity_is_the_mean_ratio_over_the_classes_that_both_have():
    x, labels = gaussians(80), torch.arange(80) % 2
    reference = {"features": x, "labels": labels}
    scale = torch.where(labels == 1, 0.1, 1.0)[:, None]
    samples = {"features": scale * x, "labels": labels}
    assert measure_diversity(samples, reference).value == pytest.approx((1 + 0.1) / 2)
    other = {"features": scale * x, "labels": labels + 1}  # class 1 alone is in both
    ratio = mean_distance(x[labels == 0]) / mean_distance(x[labels == 1])
    assert measure_diversity(other, reference).value == pytest.approx(ratio)
    unlabelled = {"features": 0.5 * x}
    assert measure_diversity(unlabelled, reference).value == pytest.approx(0.5)
    single = {"features": x[:2], "labels": torch.tensor([0, 1])}
    assert isnan(measure_diversity(single, reference).value)
    still = {"features": torch.ones(80, 2), "labels": labels}
    assert isnan(measure_diversity(samples, still).value)
    assert measure_diversity(still, reference).value == 0


class OtherClasses(FlatFeatures):
    """Says three classes, and tells others apart or none."""

    num_classes = 3

    def outputs(self, samples):
        logits = {"logits": samples[:, : self.told]} if self.told else {}
        return {"features": samples} | logits


@pytest.mark.parametrize(("told", "got"), [(0, "none"), (2, r"shape \[5, 2\]")])
def test_a_network_of_classes_has_logits_of_so_many(told, got):
    network = OtherClasses(2)
    network.told = told
    with pytest.raises(ValueError, match=rf"logits\W+\[B, 3\] .* of OtherClasses.* got {got}"):
        built(gaussians(5), network=network)


def test_digits_keep_their_logits():
    images = torch.randint(
        0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    table = merge_tables([built(images, network=DigitsFeatures()).part()])
    assert torch.equal(table.rows["logits"], DigitsFeatures().logits(images))
