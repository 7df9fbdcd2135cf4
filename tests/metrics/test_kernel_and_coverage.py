"""KID, precision, recall, density, coverage, Inception Score: each against an independent implementation."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from freeflow_lightning.metrics import FlatFeatures, coverage, inception_score, kernel_distance
from freeflow_lightning.metrics.scores import Score, mean_distance
from freeflow_lightning.metrics.support import nearest


def sets(n=300, m=200, d=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator), 0.8 * torch.randn(
        m, d, generator=generator
    ) + 0.3


def test_mmd_is_sklearns_kernel_summed_by_hand():
    x, y = (a.double().numpy() for a in sets())
    k = lambda a, b: polynomial_kernel(a, b, degree=3, gamma=1 / 6, coef0=1)
    off = lambda matrix: matrix[~np.eye(len(matrix), dtype=bool)].mean()
    expected = off(k(x, x)) + off(k(y, y)) - 2 * k(x, y).mean()
    assert kernel_distance(*sets()).value == pytest.approx(expected, rel=1e-9)


def test_kid_is_torchmetrics_where_the_subset_is_everything(monkeypatch):
    x, y = sets(200, 200)
    theirs = KernelInceptionDistance(FlatFeatures(6), subsets=1, subset_size=200)
    theirs.update(y, real=True)
    theirs.update(x, real=False)
    assert kernel_distance(x, y).value == pytest.approx(float(theirs.compute()[0]), rel=1e-4)
    monkeypatch.setattr("freeflow_lightning.metrics.kernel.BLOCK", 7)
    assert kernel_distance(x, y).value == pytest.approx(float(theirs.compute()[0]), rel=1e-4)


def test_kid_is_unbiased_and_its_error_is_that_of_fresh_samples():
    reference = sets(seed=1000)[0]
    drawn = [kernel_distance(sets(seed=k)[0][:100], reference) for k in range(200)]
    values, errors = (np.array(v) for v in zip(*drawn, strict=True))
    assert errors.mean() == pytest.approx(values.std(), rel=0.35)  # a jackknife errs upwards
    fresh = np.array(
        [
            kernel_distance(sets(seed=2 * k)[0][:40], sets(seed=2 * k + 1)[0][:40]).value
            for k in range(300)
        ]
    )
    assert abs(fresh.mean()) < 3 * fresh.std() / 300**0.5
    assert np.isnan(kernel_distance(sets()[0][:19], reference).error)
    with pytest.raises(ValueError, match="two samples on either side, got 1 and 300"):
        kernel_distance(sets()[0][:1], reference)


def by_neighbours(x, y, k):
    """The definitions, by scikit-learn's trees."""
    x, y = x.double().numpy(), y.double().numpy()
    radius = lambda a: NearestNeighbors(n_neighbors=k + 1).fit(a).kneighbors(a)[0][:, -1]
    distance = np.linalg.norm(x[:, None] - y[None], axis=2)
    inside = distance <= radius(y)
    return (
        inside.any(1).mean(),
        (distance <= radius(x)[:, None]).any(0).mean(),
        inside.sum(1).mean() / k,
        inside.any(0).mean(),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_coverage_is_that_of_scikit_learns_neighbours(k, monkeypatch):
    expected = by_neighbours(*sets(), k)
    assert coverage(*sets(), k=k) == pytest.approx(expected, rel=1e-12)
    assert min(expected) > 0.2
    monkeypatch.setattr("freeflow_lightning.metrics.support.BLOCK", 37)
    assert coverage(*sets(), k=k) == pytest.approx(expected, rel=1e-12)


def test_precision_and_recall_are_torch_fidelitys():
    x, y = sets()
    theirs = prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=100, verbose=False)
    ours = coverage(x, y)
    assert (ours.precision, ours.recall) == pytest.approx(
        (theirs["precision"], theirs["recall"]), abs=1e-6
    )


def test_coverage_far_from_the_origin():
    """Distances are made of centred features: round-off of their mean does not decide."""
    x, y = sets()
    assert coverage(x.double() + 1e5, y.double() + 1e5) == pytest.approx(coverage(x, y), abs=1e-12)


def test_coverage_needs_more_samples_than_neighbours():
    with pytest.raises(ValueError, match="more than k = 3 samples on either side, got 300 and 3"):
        coverage(sets()[0], sets()[1][:3])


def test_the_nearest_by_brute_force():
    x, y = sets()
    index, distance = nearest(x, y)
    every = (x[:, None] - y[None]).norm(dim=2)
    assert torch.equal(index, every.argmin(1))
    torch.testing.assert_close(distance.float(), every.min(1).values)


def test_the_inception_score_is_torchmetrics_formula_on_splits_in_order():
    logits = 3 * torch.randn(120, 10, generator=torch.Generator().manual_seed(0))

    class Logits(torch.nn.Module):
        def forward(self, x):
            return x.float()

    parts = []
    for part in logits.split(40):
        theirs = InceptionScore(feature=Logits(), splits=1)
        theirs.update(part)
        parts.append(float(theirs.compute()[0]))
    score = inception_score(logits, split_samples=40)
    assert score.value == pytest.approx(np.mean(parts), rel=1e-5)
    assert score.high - score.value == pytest.approx(
        1.96 * np.std(parts, ddof=1) / 3**0.5, rel=1e-4
    )
    assert inception_score(torch.full((10, 4), -1e4).fill_diagonal_(1e4)).value > 0  # 0 log 0
    assert inception_score(torch.zeros(50, 7)).value == pytest.approx(1)


def test_shares_have_wilsons_interval():
    from scipy.stats import binomtest

    for right, n in ((40, 50), (50, 50), (0, 20)):
        ours, theirs = Score.share(right / n, n), binomtest(right, n).proportion_ci(method="wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-4)


def test_the_spread_is_scipys_mean_distance():
    from scipy.spatial.distance import pdist

    x = sets()[0]
    assert mean_distance(x) == pytest.approx(pdist(x.numpy()).mean(), rel=1e-6)
    assert np.isnan(mean_distance(x[:1]))
