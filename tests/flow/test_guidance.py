import pytest
import torch

from freeflow_lightning.flow import guided_rows, guided_velocity, interval_guidance


def field(x, t, label):
    return x * label[:, None] - t[:, None] ** 2 + torch.sin(label)[:, None]


def batch(n=5, d=3):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    t, label, null, gamma = torch.rand(4, n, generator=g, dtype=torch.float64)
    return x, t, label, null, 1 + gamma


def test_guided_velocity_is_the_formula():
    x, t, label, null, gamma = batch()
    expected = gamma[:, None] * field(x, t, label) + (1 - gamma[:, None]) * field(x, t, null)
    torch.testing.assert_close(
        guided_velocity(field, x, t, label, null=null, gamma=gamma),
        expected,
        atol=1e-14,
        rtol=1e-14,
    )


def test_gamma_by_hand():
    one = torch.ones(4)
    u = guided_velocity(
        lambda x, t, c: c, one, one, 3 * one, null=one, gamma=torch.tensor([0.0, 1.0, 1.5, 2.0])
    )
    assert u.tolist() == [1.0, 3.0, 4.0, 5.0]


def test_gamma_1_is_the_conditional_velocity_bit_for_bit():
    x, t, label, null, gamma = (value.float() for value in batch(1000))
    u = guided_velocity(field, x, t, label, null=1e3 * null, gamma=torch.ones_like(gamma))
    assert torch.equal(u, field(x, t, label))


def test_outside_the_interval_the_velocity_is_conditional_bit_for_bit():
    x, t, label, null, gamma = (value.float() for value in batch(1000))
    u = guided_velocity(field, x, t, label, null=null, gamma=gamma, interval=(0.2, 0.4))
    outside = (t < 0.2) | (t > 0.4)
    assert torch.equal(u[outside], field(x, t, label)[outside])
    full = guided_velocity(field, x, t, label, null=null, gamma=gamma)
    assert torch.equal(u[~outside], full[~outside])
    assert not torch.allclose(u, full)


def test_interval_contains_its_ends():
    t = torch.tensor([0.0, 0.1999, 0.2, 0.3, 0.4, 0.4001, 1.0])
    gamma = torch.full_like(t, 1.7)
    inside = interval_guidance(gamma, t, (0.2, 0.4)) == gamma
    assert inside.tolist() == [False, False, True, True, True, False, False]
    assert interval_guidance(gamma, t, (0.2, 0.4))[~inside].unique().tolist() == [1.0]


def test_both_branches_are_one_call_on_twice_the_batch():
    calls = []

    def velocity(x, t, c):
        calls.append((len(x), len(t), len(c)))
        return x

    x, t, label, null, gamma = batch()
    guided_velocity(velocity, x, t, label, null=null, gamma=gamma)
    assert calls == [(10, 10, 10)]


@pytest.mark.parametrize(
    "rescale", [None, lambda guided, conditional: 0.7 * guided + 0.3 * conditional]
)
def test_rows_that_guidance_does_not_change_cost_no_unconditional_branch(rescale):
    x, t, label, null, gamma = (value.float() for value in batch(1000))
    gamma[:100] = 1.0
    interval, calls = (0.2, 0.4), []

    def velocity(x, t, c):
        calls.append(len(x))
        return field(x, t, c)

    rows = guided_rows(gamma, t, interval).nonzero()[:, 0]
    arguments = {"null": null, "gamma": gamma, "interval": interval, "rescale": rescale}
    fewer = guided_velocity(velocity, x, t, label, **arguments, rows=rows)
    assert torch.equal(fewer, guided_velocity(velocity, x, t, label, **arguments))
    assert calls == [1000 + len(rows), 2000]
    assert 100 < len(rows) < 300
    none = guided_velocity(velocity, x, t, label, **arguments, rows=rows[:0])
    assert calls[-1] == 1000
    expected = field(x, t, label)
    assert torch.equal(none, expected if rescale is None else rescale(expected, expected))


@pytest.mark.parametrize(
    "wrap", [lambda c: {"a": c, "b": (c, None)}, lambda c: (c, [c]), lambda c: [c, {"k": c}]]
)
def test_conditions_may_be_trees(wrap):
    x, t, label, null, gamma = batch()

    def velocity(x, t, tree):
        leaf = tree["a"] if isinstance(tree, dict) else tree[0]
        return field(x, t, leaf)

    u = guided_velocity(velocity, x, t, wrap(label), null=wrap(null), gamma=gamma)
    assert torch.equal(u, guided_velocity(field, x, t, label, null=null, gamma=gamma))


def test_gamma_is_not_rounded_to_the_velocitys_precision():
    one = torch.ones(1)
    u = guided_velocity(
        lambda x, t, c: c.bfloat16(), one, one, 2 * one, null=one, gamma=torch.tensor([1.3711])
    )
    assert u.item() == pytest.approx(2.3711, abs=1e-6)  # bfloat16 would give 2.375


def test_guidance_keeps_float64():
    x, t, label, null, gamma = batch()
    assert (
        guided_velocity(field, x, t, label, null=null, gamma=gamma.float()).dtype == torch.float64
    )
