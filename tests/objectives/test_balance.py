import pytest
import torch

from freeflow_lightning.objectives import (
    ByDuration,
    ByGuidance,
    Residual,
    adaptive_lambda,
    decay,
    normalise,
    split_batch,
    weigh_by_duration,
)


def example():
    g = torch.Generator().manual_seed(0)
    output, error = torch.randn(2, 5, 2, 3, generator=g)
    return Residual(output, error * torch.tensor([1e-3, 0.1, 1.0, 10.0, 1e3])[:, None, None])


@pytest.mark.parametrize(
    ("k", "expected"),
    [(0.0, [3.0, 4.0]), (0.5, [0.6, 0.8]), (1.0, [0.12, 0.16]), (2.0, [0.0048, 0.0064])],
)
def test_decay_by_hand(k, expected):
    """||(3, 4)||^2 / 2 + 12.5 = 25."""
    decayed = decay(Residual(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])), k, epsilon=12.5)
    assert decayed.error[0].tolist() == pytest.approx(expected)


def test_the_paper_s_epsilon_is_the_default():
    assert decay(
        Residual(torch.zeros(1, 1), torch.tensor([[0.01]])), 1.0
    ).error.item() == pytest.approx(0.01 / 2e-4)


def test_normalised_errors_by_hand():
    """||(3, 4)|| / sqrt(2) + 0.1."""
    r = normalise(Residual(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])))
    assert r.error[0].tolist() == pytest.approx([3 / (12.5**0.5 + 0.1), 4 / (12.5**0.5 + 0.1)])


def test_normalised_errors_are_bounded_at_any_dimension():
    for d in (2, 4096):
        small, large = (
            normalise(Residual(torch.zeros(1, d), torch.full((1, d), e))) for e in (1e-3, 1e3)
        )
        assert large.mean_square().sqrt().item() == pytest.approx(1, abs=1e-3)
        assert small.mean_square().sqrt().item() == pytest.approx(1e-3 / 0.101)


def test_by_duration_is_the_gradient_of_the_map_f():
    """<x + delta F, Delta> has delta <F, Delta>'s gradient in F."""
    output, error, delta = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3), torch.rand(4)
    (expected,) = torch.autograd.grad(((7 + delta[:, None] * output) * error).sum(), output)
    weighted = weigh_by_duration(Residual(output, error), delta)
    (value,) = torch.autograd.grad(weighted.surrogate().sum(), output)
    torch.testing.assert_close(value, expected)


def test_k_0_changes_nothing():
    assert torch.equal(decay(example(), 0.0).error, example().error)


def test_k_half_gives_every_sample_the_same_size():
    assert decay(example(), 0.5, epsilon=0.0).mean_square().tolist() == pytest.approx([1.0] * 5)


def test_k_1_inverts_the_size():
    r = example()
    torch.testing.assert_close(decay(r, 1.0, epsilon=0.0).mean_square(), 1 / r.mean_square())


def test_decay_keeps_direction_and_output():
    r = example()
    decayed = decay(r, 1.0)
    torch.testing.assert_close(
        torch.cosine_similarity(r.error.flatten(1), decayed.error.flatten(1)), torch.ones(5)
    )
    assert decayed.output is r.output


@pytest.mark.parametrize(
    ("n", "fraction", "parts"),
    [
        (256, 0.25, (192, 64)),
        (8, 0.25, (6, 2)),
        (2, 0.01, (1, 1)),
        (2, 0.99, (1, 1)),
        (10, 0.3, (7, 3)),
        (1, 0.0, (1, 0)),
    ],
)
def test_split_by_hand(n, fraction, parts):
    assert split_batch(n, fraction) == parts


def test_split_uses_every_row_and_starves_no_objective():
    for n in range(2, 40):
        for fraction in (0.01, 0.25, 0.5, 0.77, 0.99):
            g, c = split_batch(n, fraction)
            assert g + c == n
            assert min(g, c) >= 1
            assert abs(c - n * fraction) <= 1


@pytest.mark.parametrize(("n", "fraction"), [(8, -0.1), (8, 1.1), (8, float("nan")), (1, 0.25)])
def test_impossible_splits_are_refused(n, fraction):
    with pytest.raises(ValueError, match=r"expected correction_fraction|cannot hold both"):
        split_batch(n, fraction)


def test_by_guidance_divides_by_the_square_of_gamma_after_another_weight():
    r = Residual(torch.zeros(2, 2), torch.tensor([[2.0, 2.0], [4.0, 4.0]]))
    delta, gamma = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 2.0])
    weight = ByGuidance(ByDuration())
    assert weight(r, delta, gamma).error.tolist() == [[1.0, 1.0], [0.5, 0.5]]
    assert weight(r, delta).error.tolist() == [[1.0, 1.0], [2.0, 2.0]]  # nothing is guided


def test_lambda_by_hand():
    value = adaptive_lambda(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 4.0, 6.0]), 0.6)
    assert value.item() == pytest.approx(0.6 * 3 / 4)


def test_lambda_survives_a_vanishing_correction():
    assert adaptive_lambda(torch.ones(2), torch.zeros(2), 0.3).item() == pytest.approx(0.3e6)


def test_lambda_uses_the_mean_over_ranks_of_both_norms():
    other = torch.tensor([5.0, 1.0])  # the other rank's means
    value = adaptive_lambda(
        torch.tensor([3.0]), torch.tensor([7.0]), 1.0, mean_over_ranks=lambda x: (x + other) / 2
    )
    assert value.item() == pytest.approx(4 / 4)


def test_lambda_makes_the_correction_a_tenth_of_the_prediction():
    """Sec. 5.1: alpha = 0.3 and a split of 75 : 25."""
    g, c = torch.rand(192) + 1, 50 * torch.rand(64)
    lam = adaptive_lambda(g, c, 0.3)
    assert (lam * c.sum() / g.sum()).item() == pytest.approx(0.1, rel=1e-5)


def test_lambda_carries_no_gradient():
    r = Residual(torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3))
    assert not adaptive_lambda(decay(r, 1.0).norm(), r.norm(), 0.3).requires_grad
