import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.utilities import dim_zero_sum

from freeflow_lightning.metrics import (
    FlatFeatures,
    FrechetDistance,
    Moments,
    frechet_distance,
    mean_and_covariance,
    square_root,
)


def samples(n, d, seed):
    """Correlated Gaussian samples with a mean of their own, float64 [n, d]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x @ torch.randn(d, d, generator=generator, dtype=torch.float64) / math.sqrt(
        d
    ) + torch.randn(d, generator=generator)


def filled(real, fake, metric=None):
    metric = metric or FrechetDistance(FlatFeatures(real.shape[1]))
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric


@pytest.mark.parametrize("d", [1, 2, 7, 64])
def test_agrees_with_scipys_matrix_square_root(d):
    real, fake = samples(400, d, 0), samples(300, d, 1)
    s1, s2 = (a.T.cov().reshape(d, d).numpy() for a in (real, fake))
    root = scipy.linalg.sqrtm(s1 @ s2)
    expected = (real.mean(0) - fake.mean(0)).square().sum().item() + (
        s1 + s2 - 2 * root.real
    ).trace()
    assert filled(real, fake).compute().item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("d", [2, 48])
def test_agrees_with_torch_fidelity(d):
    real, fake = samples(300, d, 0), samples(200, d, 1)
    given = [
        {"mu": x.mean(0).numpy(), "sigma": np.cov(x.numpy(), rowvar=False)} for x in (real, fake)
    ]
    theirs = fid_statistics_to_metric(*given, verbose=False)["frechet_inception_distance"]
    assert filled(real, fake).compute().item() == pytest.approx(theirs, rel=1e-6)


def test_a_given_reference_is_that_of_its_samples():
    real, fake = samples(300, 7, 0), samples(200, 7, 1)
    given = FrechetDistance(FlatFeatures(7))
    given.update(real, real=False)  # forgotten
    for count in (2, 300, 10**6):
        given.set_reference(Moments(real.mean(0), real.T.cov()), count)
        given.update(fake, real=False)
        assert given.compute().item() == pytest.approx(
            filled(real, fake).compute().item(), rel=1e-6
        )
    with pytest.raises(ValueError, match=r"expected moments of 7 features, got \(3,\)"):
        given.set_reference(Moments(torch.zeros(3), torch.eye(3)))


@pytest.mark.parametrize("d", [1, 3, 32])
def test_agrees_with_torchmetrics_in_states_and_value(d):
    real, fake = samples(300, d, 2), samples(200, d, 3)
    ours, theirs = filled(real, fake), filled(real, fake, FrechetInceptionDistance(FlatFeatures(d)))
    assert ours.metric_state.keys() == theirs.metric_state.keys()
    for name, value in theirs.metric_state.items():
        torch.testing.assert_close(ours.metric_state[name], value)
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_gaussians_with_diagonal_covariances():
    a, b = torch.tensor([4.0, 9.0, 0.0]), torch.tensor([1.0, 16.0, 0.25])
    distance = frechet_distance(
        torch.tensor([1.0, 2.0, 3.0]), a.diag(), torch.tensor([0.0, 2.0, 1.0]), b.diag()
    )
    assert distance.item() == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 4) ** 2 + 0.5**2, rel=1e-12)


@pytest.mark.parametrize("d", [2, 16])
def test_the_optimal_map_between_gaussians_that_do_not_commute(d):
    """A symmetric positive map T is the optimal transport from N(0, S) to N(0, T S T), at the cost tr((T - I) S (T - I))."""
    s, t = (samples(5 * d, d, seed).T.cov() for seed in (4, 5))
    mu, gap = torch.zeros(d), t - torch.eye(d)
    assert not torch.allclose(s @ t, t @ s, rtol=1e-2)
    assert frechet_distance(mu, s, mu, t @ s @ t).item() == pytest.approx(
        (gap @ s @ gap).trace().item(), rel=1e-9
    )


def test_is_symmetric():
    first, second = samples(100, 8, 6), samples(100, 8, 7)
    assert filled(first, second).compute().item() == pytest.approx(
        filled(second, first).compute().item(), rel=1e-10
    )


def test_is_zero_and_not_below_at_equal_samples():
    """Unclamped, round-off makes some of these negative."""
    for seed in range(10):
        x = samples(20, 64, seed)
        assert 0 <= filled(x, x).compute().item() < 1e-4 * x.T.cov().trace()


@pytest.mark.parametrize(("n_real", "n_fake"), [(20, 500), (500, 20), (20, 30)])
def test_singular_covariances(n_real, n_fake):
    """Fewer samples than dimensions: tr (S1 S2)^1/2 is the sum of the singular values of the product of centred samples."""
    real, fake = samples(n_real, 64, 8), samples(n_fake, 64, 9)
    a, b = ((x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (real, fake))
    cross = torch.linalg.svdvals(a @ b.T).sum()
    expected = (
        (real.mean(0) - fake.mean(0)).square().sum()
        + a.square().sum()
        + b.square().sum()
        - 2 * cross
    )
    assert filled(real, fake).compute().item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_sampler_that_returns_one_point_has_a_distance():
    real, point = samples(200, 8, 10), torch.full((50, 8), 0.3, dtype=torch.float64)
    expected = (real.mean(0) - 0.3).square().sum() + real.T.cov().trace()
    assert filled(real, point).compute().item() == pytest.approx(expected.item(), rel=1e-6)


def test_orthogonal_supports():
    a, b = torch.tensor([2.0, 0.0]).diag(), torch.tensor([0.0, 5.0]).diag()
    turn = torch.linalg.qr(samples(2, 2, 11)).Q
    mu = torch.zeros(2)
    assert frechet_distance(
        mu, turn @ a.double() @ turn.T, mu, turn @ b.double() @ turn.T
    ).item() == pytest.approx(7, rel=1e-7)


def test_square_root_squares_to_the_covariance():
    sigma = samples(50, 10, 12).T.cov()
    torch.testing.assert_close(square_root(sigma) @ square_root(sigma), sigma)


def test_mean_and_covariance():
    x = samples(50, 4, 13)
    mean, covariance = mean_and_covariance(x.sum(0), x.T @ x, torch.tensor(50))
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(covariance, x.T.cov())
    with pytest.raises(ValueError, match="at least two samples for a covariance, got 1"):
        mean_and_covariance(x[0], torch.outer(x[0], x[0]), 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-0.1, "positive semi-definite"),
        (float("nan"), "finite covariance"),
        (float("inf"), "finite covariance"),
    ],
)
def test_refuses_what_is_no_covariance(value, message):
    mu, good, bad = torch.zeros(2), torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, value]])
    for first, second in ((bad, good), (good, bad)):
        with pytest.raises(ValueError, match=message):
            frechet_distance(mu, first, mu, second)


def test_batches_do_not_matter():
    real, fake = samples(101, 6, 14), samples(90, 6, 15)
    batched = FrechetDistance(FlatFeatures(6))
    for part in real.split(17):
        batched.update(part, real=True)
    for part in fake.split(1):
        batched.update(part, real=False)
    assert batched.compute().item() == pytest.approx(filled(real, fake).compute().item(), rel=1e-10)


def test_an_empty_batch_adds_nothing():
    metric = filled(samples(30, 4, 29), samples(30, 4, 30))
    before = metric.compute().item()
    metric.update(torch.zeros(0, 4), real=False)
    assert metric.compute().item() == before


def test_summed_states_of_two_metrics_equal_one_metric():
    """The reduction over processes: every state is declared a sum, and the sums of unequal shares give the whole's distance."""
    real, fake = samples(120, 6, 16), samples(100, 6, 17)
    parts = [filled(real[:80], fake[:10]), filled(real[80:], fake[10:])]
    merged = FrechetDistance(FlatFeatures(6))
    assert set(merged._reductions.values()) == {dim_zero_sum}
    for name in merged.metric_state:
        setattr(merged, name, sum(part.metric_state[name] for part in parts))
    merged.update(real[:0], real=True)  # torchmetrics otherwise warns that nothing was added
    assert merged.compute().item() == pytest.approx(filled(real, fake).compute().item(), rel=1e-10)


def test_the_kept_square_root_follows_the_reference():
    """Same fakes, a reference that grows, and one that is replaced: each value equals a fresh metric's."""
    real, fake = samples(200, 5, 18), samples(100, 5, 19)
    metric = filled(real[:100], fake)
    metric.compute()
    metric.update(real[100:], real=True)
    assert metric.compute().item() == pytest.approx(filled(real, fake).compute().item(), rel=1e-10)


def test_the_square_root_is_computed_once_for_one_reference(monkeypatch):
    calls, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: calls.append(a) or eigh(a))
    metric = filled(samples(50, 5, 20), samples(50, 5, 21))
    values = []
    for seed in (22, 23):
        metric.reset()
        metric.update(samples(50, 5, seed), real=False)
        values.append(metric.compute().item())
    assert len(calls) == 1
    assert values[1] == pytest.approx(
        filled(samples(50, 5, 20), samples(50, 5, 23)).compute().item(), rel=1e-10
    )


def test_reset_keeps_the_reference_unless_told_otherwise():
    real, fake = samples(50, 3, 24), samples(50, 3, 25)
    keeping = filled(real, fake)
    keeping.reset()
    assert (int(keeping.real_features_num_samples), int(keeping.fake_features_num_samples)) == (
        50,
        0,
    )
    forgetting = filled(real, fake, FrechetDistance(FlatFeatures(3), reset_real_features=True))
    forgetting.reset()
    assert (
        int(forgetting.real_features_num_samples),
        int(forgetting.fake_features_num_samples),
    ) == (0, 0)


def test_calling_the_metric_counts_a_kept_reference_once():
    real, fake = samples(50, 3, 26), samples(50, 3, 27)
    metric = FrechetDistance(FlatFeatures(3))
    metric.update(real, real=True)
    metric.update(fake[:20], real=False)
    metric(fake[20:], real=False)
    assert int(metric.real_features_num_samples) == 50
    assert metric.compute().item() == pytest.approx(filled(real, fake).compute().item(), rel=1e-10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_features_that_are_not_finite(value):
    images = torch.zeros(4, 128)
    images[2, 5] = value
    metric = FrechetDistance(FlatFeatures(128))
    with pytest.raises(ValueError, match="1 of 4 samples have NaN or infinite features"):
        metric.update(images, real=False)
    assert int(metric.fake_features_num_samples) == 0


def test_refuses_too_few_samples_wrong_widths_and_networks_without_width():
    metric = FrechetDistance(FlatFeatures(2))
    metric.update(torch.zeros(1, 2), real=True)
    metric.update(torch.zeros(3, 2), real=False)
    with pytest.raises(RuntimeError, match="got 1 and 3"):
        metric.compute()
    with pytest.raises(ValueError, match="integer `num_features`"):
        FrechetDistance(nn.Identity())
    lying = nn.Linear(2, 3)
    lying.num_features = 2
    with pytest.raises(ValueError, match=r"expected features of shape \(5, 2\), got \(5, 3\)"):
        FrechetDistance(lying).update(torch.zeros(5, 2), real=True)


class Observed(nn.Module):
    """Two features, and a note of the modes it ran in."""

    num_features = 2

    def __init__(self):
        super().__init__()
        self.layer, self.modes = nn.Linear(3, 2), []

    def forward(self, x):
        self.modes.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return self.layer(x)


def test_features_without_gradients_and_without_autocast():
    network, x = Observed(), samples(20, 3, 28).float()
    metric = FrechetDistance(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metric.update(x, real=True)
        metric(x, real=False)  # torchmetrics turns gradients on there
    assert set(network.modes) == {(False, False)}
    torch.testing.assert_close(
        metric.real_features_sum, network.layer(x).double().sum(dim=0).detach(), rtol=1e-12, atol=0
    )


def test_sums_stay_on_the_cpu_where_a_device_has_no_float64(monkeypatch):
    monkeypatch.setattr("freeflow_lightning.metrics.frechet.WITHOUT_FLOAT64", ("meta",))
    monkeypatch.setattr("freeflow_lightning.metrics.moments.WITHOUT_FLOAT64", ("meta",))

    class Seen(nn.Linear):
        num_features = 2

    metric = FrechetDistance(Seen(2, 2)).to("meta")
    assert metric.features.weight.is_meta
    assert metric.fake_features_sum.device.type == "cpu"
    metric.reset()
    assert metric.fake_features_cov_sum.device.type == "cpu"
