"""Sources of states: whose law they have, what they cost, and that they are constants."""

import pytest
import torch

from freeflow_lightning.flow import RULES, DataStates, Prior, Renoised, StudentPath, TeacherPath

M, S = 0.7, 0.4
N = 512


def width(t):
    return ((1 - t) ** 2 * S**2 + t**2).sqrt()[:, None]


def u(x, t):
    """The velocity of data N(M, S^2)."""
    offset = x - (1 - t)[:, None] * M
    return M + ((1 - t) * S**2 - t)[:, None] / width(t) ** 2 * offset


def flow(x, t, s):
    """Its exact map from t to s."""
    return (1 - s)[:, None] * M + width(s) / width(t) * (x - (1 - t)[:, None] * M)


def F(x, t, delta):  # noqa: N802
    """Its exact average velocity, for delta > 0."""
    return (flow(x, t, t - delta) - x) / delta[:, None]


def batch(n=N, paths=N):
    g = torch.Generator().manual_seed(0)
    noise = lambda rows: torch.randn(rows, 1, generator=g, dtype=torch.float64)
    return 0.98 * torch.rand(n, generator=g, dtype=torch.float64), noise(paths), noise(n)


SHARED = TeacherPath(6, "rk4", 3)
SOURCES = [Prior(), StudentPath(), Renoised(), DataStates(), TeacherPath(), SHARED]


def test_the_prior_is_its_noise():
    t, z, n = batch()
    assert Prior().draw(torch.ones_like(t), F, u, z, n) is z


def test_the_student_s_path_is_its_map_from_the_prior():
    t, z, n = batch()
    expected = flow(z, torch.ones_like(t), t)
    torch.testing.assert_close(StudentPath().draw(t, F, u, z, n), expected)


def test_the_student_s_path_starts_at_the_noise_bit_for_bit():
    t, z, n = batch()
    student = lambda x, t, delta: x + t[:, None]
    assert torch.equal(StudentPath().draw(torch.ones_like(t), student, u, z, n), z)


def test_the_teacher_s_path_is_its_ode():
    t, z, n = batch()
    expected = flow(z, torch.ones_like(t), t)
    error = lambda source: (source.draw(t, F, u, z, n) - expected).abs().max()
    assert error(TeacherPath(16, "rk4")) < 1e-4
    assert error(TeacherPath(16, "rk4")) < error(TeacherPath(16, "heun"))
    assert error(TeacherPath(16, "heun")) < error(TeacherPath(8, "euler"))


def test_states_that_share_a_path_come_back_in_the_order_of_their_times():
    t, z, n = batch(N, N // 4)
    of_row = z.repeat_interleave(4, 0)
    expected = flow(of_row, torch.ones_like(t), t)
    states = TeacherPath(64, "rk4", per_path=4).draw(t, F, u, z, n)
    torch.testing.assert_close(states, expected, atol=1e-5, rtol=0)


def test_the_re_noised_sample_is_on_the_line_from_the_student_s_end_to_the_noise():
    t, z, n = batch()
    x0 = flow(z, torch.ones_like(t), torch.zeros_like(t))
    torch.testing.assert_close(Renoised().endpoint(F, z), x0)
    expected = (1 - t)[:, None] * x0 + t[:, None] * n
    torch.testing.assert_close(Renoised().draw(t, F, u, z, n), expected)


def test_data_are_noised_as_they_are():
    t, x0, n = batch()
    assert DataStates().endpoint(F, x0) is x0
    expected = (1 - t)[:, None] * x0 + t[:, None] * n
    torch.testing.assert_close(DataStates().draw(t, F, u, x0, n), expected)


@pytest.mark.parametrize("source", [s for s in SOURCES if s != Prior()], ids=str)
def test_with_the_exact_map_and_data_every_source_has_the_teacher_s_law(source):
    """At t = 0.3: mean 0.7 M and variance 0.49 S^2 + 0.09."""
    _, z, n = batch(20_000 * source.per_path, 20_000)
    z = M + S * z if source.needs_data else z
    t = torch.full((len(n),), 0.3, dtype=torch.float64)
    x = source.draw(t, F, u, z, n)
    assert x.mean() == pytest.approx(0.7 * M, abs=0.015)
    assert x.std() == pytest.approx(width(t)[0, 0].item(), abs=0.015)


@pytest.mark.parametrize("source", SOURCES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_claimed_evaluations_are_the_rows_that_networks_see(source, rule):
    if isinstance(source, TeacherPath):
        source = TeacherPath(source.steps, rule, source.per_path)
    t, z, n = batch(48, 48 // source.per_path)
    rows = {"student": 0, "teacher": 0}

    def student(x, t, delta):
        rows["student"] += len(x)
        return F(x, t, delta)

    def teacher(x, t):
        rows["teacher"] += len(x)
        return u(x, t)

    source.draw(t, student, teacher, z, n)
    assert rows["student"] == 48 * source.student_evaluations
    assert rows["teacher"] == 48 * source.teacher_evaluations
    assert sum(rows.values()) == 48 * source.evaluations


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_states_are_constants_and_only_data_states_need_data(source):
    t, z, n = batch(48, 48 // source.per_path)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    student, teacher = lambda *args: scale * F(*args), lambda *args: scale * u(*args)
    assert not source.draw(t, student, teacher, z, n).requires_grad
    assert source.needs_data == (source == DataStates())
    assert source.only_prior == (source == Prior())


def test_uneven_paths_are_refused():
    with pytest.raises(ValueError, match="multiple of per_path"):
        TeacherPath(8, "heun", per_path=3)
    with pytest.raises(ValueError, match="unknown solver 'adams'"):
        TeacherPath(8, "adams")
    t, z, n = batch(8, 8)
    with pytest.raises(ValueError, match="2 times for each of 8 paths, got 8"):
        TeacherPath(8, per_path=2).draw(t, F, u, z, n)
