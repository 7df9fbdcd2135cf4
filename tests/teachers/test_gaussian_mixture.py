import math

import pytest
import torch

from freeflow_lightning.flow import solve
from freeflow_lightning.teachers import GaussianMixtureTeacher
from teachers.mixture import LABELS, MEANS, NULL, STD, WEIGHTS, batch, log_density, posterior


def teacher():
    return GaussianMixtureTeacher(MEANS, STD, WEIGHTS, LABELS)


def test_velocity_is_the_score_of_the_marginal():
    """u = (x + t grad log p_t(x)) / (1 - t), the score by autograd of the log density."""
    x, t, label = batch()
    x.requires_grad_()
    score = torch.autograd.grad(log_density(x, 1 - t, t, label).logsumexp(1).sum(), x)[0]
    expected = (x + t[:, None] * score) / (1 - t[:, None])
    torch.testing.assert_close(teacher().velocity(x, t, label), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("time", [0.0, 0.25, 1.0])
def test_velocity_is_expected_data_minus_expected_noise(time):
    x, t, label = batch()
    t = torch.full_like(t, time)
    data, noise = posterior(x, 1 - t, t, label)
    torch.testing.assert_close(
        teacher().velocity(x, t, label), data - noise, atol=1e-12, rtol=1e-12
    )


def test_at_the_prior_the_velocity_is_the_classs_mean_minus_x():
    x, t, label = batch()
    means = [MEANS[0], (0.2 * MEANS[1] + 0.3 * MEANS[2]) / 0.5, (WEIGHTS[:, None] * MEANS).sum(0)]
    expected = torch.stack(means)[label] - x
    torch.testing.assert_close(teacher().velocity(x, torch.ones_like(t), label), expected)


def test_at_the_data_the_velocity_is_x():
    """u(x, 0) = E[x - z | x] = x."""
    x, t, label = batch()
    torch.testing.assert_close(teacher().velocity(x, 0 * t, label), x)


def test_none_and_the_null_label_mean_the_whole_mixture():
    x, t, _ = batch()
    null = torch.full((len(x),), NULL)
    assert torch.equal(teacher().velocity(x, t, None), teacher().velocity(x, t, null))
    unlabelled = GaussianMixtureTeacher(MEANS, STD, WEIGHTS)
    assert torch.equal(unlabelled.velocity(x, t, None), teacher().velocity(x, t, null))


def test_far_states_stay_finite():
    x, t, label = batch()
    far = teacher().velocity(1e4 * x.float(), t.float(), label)
    assert far.isfinite().all()


def test_weights_need_no_normalisation_and_are_equal_by_default():
    x, t, label = batch()
    scaled = GaussianMixtureTeacher(MEANS, STD, 7 * WEIGHTS, LABELS).velocity(x, t, label)
    torch.testing.assert_close(scaled, teacher().velocity(x, t, label))
    equal = GaussianMixtureTeacher(MEANS, STD, [1, 1, 1]).velocity(x, t)
    assert torch.equal(GaussianMixtureTeacher(MEANS, STD).velocity(x, t), equal)
    assert not torch.allclose(equal, teacher().velocity(x, t, None))


def test_the_shape_of_a_state_does_not_matter():
    x, t, label = batch()
    image = GaussianMixtureTeacher(MEANS.view(3, 1, 2, 1), STD, WEIGHTS, LABELS)
    assert image.sample_shape == (1, 2, 1)
    out = image.velocity(x.view(-1, 1, 2, 1), t, label)
    assert torch.equal(out.flatten(1), teacher().velocity(x, t, label))


def moments(x):
    return x.mean(0), torch.cov(x.T)


def mixture_moments(label):
    member = (label == LABELS) | torch.tensor(label == NULL)
    w = (WEIGHTS * member / (WEIGHTS * member).sum())[:, None]
    mean = (w * MEANS).sum(0)
    centred = MEANS - mean
    return mean, (w * centred).T @ centred + (w[:, 0] * STD**2).sum() * torch.eye(
        2, dtype=torch.float64
    )


@pytest.mark.parametrize("label", [0, 1, NULL])
def test_the_ode_ends_in_the_mixture(label):
    n = 8_000
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = solve(teacher().velocity, z, torch.full((n,), label), steps=16)
    torch.testing.assert_close(moments(x), mixture_moments(label), atol=0.08, rtol=0.03)


@pytest.mark.parametrize("label", [0, 1, NULL])
def test_samples_are_the_mixtures(label):
    n, g = 50_000, torch.Generator().manual_seed(0)
    x = teacher().sample(n, g, torch.full((n,), label))
    torch.testing.assert_close(moments(x), mixture_moments(label), atol=0.04, rtol=0.02)


def test_samples_without_a_condition_fall_on_the_components_by_weight():
    n = 50_000
    x = teacher().sample(n, torch.Generator().manual_seed(0))
    nearest = torch.cdist(x, MEANS).argmin(1)
    share = torch.bincount(nearest, minlength=3) / n
    assert (
        abs(share[2] - 0.3) < 5 * math.sqrt(0.21 / n) + 0.005
    )  # the narrow component is well apart
    assert torch.equal(x[:5], teacher().sample(n, torch.Generator().manual_seed(0))[:5])


def test_lists_and_integers_become_float32():
    built = GaussianMixtureTeacher([[2, 0], [-2, 0]], 0.5, labels=[0, 1])
    assert built.means.dtype == torch.float32
    assert built.num_classes == 2
    assert built.sample_shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"means": [1.0, 2.0], "std": 1.0}, r"\[K, \*sample_shape\]"),
        ({"means": [[1.0], [2.0]], "std": 0.0}, "positive std"),
        ({"means": [[1.0], [2.0]], "std": 1.0, "weights": [1.0, 0.0]}, "positive weights"),
        ({"means": [[1.0], [2.0]], "std": 1.0, "weights": [1.0]}, "2 positive weights"),
        ({"means": [[1.0], [2.0]], "std": 1.0, "labels": [0]}, "2 labels"),
        ({"means": [[1.0], [2.0]], "std": 1.0, "labels": [-1, 0]}, "labels from 0"),
        ({"means": [[1.0], [2.0]], "std": 1.0, "labels": [0, 2]}, r"\[1\] have none"),
    ],
)
def test_impossible_mixtures_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixtureTeacher(**arguments)


def test_posterior_has_the_mean_of_the_data_and_the_width_of_each_component():
    x, t, label = batch()
    mixture = teacher().posterior(x, t, label)
    data, _ = posterior(x, 1 - t, t, label)
    mean = (mixture.log_weights.exp()[..., None] * mixture.means).sum(1)
    torch.testing.assert_close(mean, data, atol=1e-12, rtol=1e-12)
    precision = 1 / STD**2 + ((1 - t) / t)[:, None] ** 2  # of the component and of x_t / (1 - t)
    torch.testing.assert_close(mixture.stds, precision.rsqrt(), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(mixture.log_weights.exp().sum(1), torch.ones_like(t))
    absent = (label[:, None] != LABELS) & (label[:, None] != NULL)
    assert torch.equal(mixture.log_weights == -math.inf, absent)


def test_posterior_is_the_prior_mixture_at_the_prior_and_x_at_the_data():
    x, t, _ = batch()
    at_prior = teacher().posterior(x, torch.ones_like(t))
    torch.testing.assert_close(at_prior.log_weights.exp(), WEIGHTS.expand(len(x), -1))
    torch.testing.assert_close(at_prior.means, MEANS.expand(len(x), -1, -1))
    torch.testing.assert_close(at_prior.stds, STD.expand(len(x), -1))
    at_data = teacher().posterior(x, 0 * t)
    torch.testing.assert_close(at_data.means, x[:, None].expand(-1, 3, -1))
    assert (at_data.stds == 0).all()


def test_posterior_samples_have_its_moments_row_by_row():
    images = GaussianMixtureTeacher(MEANS.view(3, 1, 2, 1), STD, WEIGHTS, LABELS)
    x, t, label = batch(5)
    mixture = images.posterior(x.view(-1, 1, 2, 1), t, label)
    assert mixture.means.shape == (5, 3, 1, 2, 1)
    draws = mixture.sample(40_000, torch.Generator().manual_seed(0))
    assert draws.shape == (40_000, 5, 1, 2, 1)
    weights = mixture.log_weights.exp()
    mean = torch.einsum("bk,bkchw->bchw", weights, mixture.means)
    second = mixture.means.square() + mixture.stds.view(5, 3, 1, 1, 1) ** 2
    torch.testing.assert_close(draws.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(
        draws.square().mean(0),
        torch.einsum("bk,bkchw->bchw", weights, second),
        atol=0.08,
        rtol=0.02,
    )
