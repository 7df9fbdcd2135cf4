import math

import pytest

from freeflow_lightning.flow import alpha, confident_time, tangent_share


@pytest.mark.parametrize(
    ("step", "t_c"),
    [(0, 1.0), (1, 0.9999), (2500, 0.75), (9999, 0.0001), (10_000, 0.0), (10**6, 0.0)],
)
def test_confident_time_by_hand(step, t_c):
    assert confident_time(step) == pytest.approx(t_c, abs=1e-12)


def test_without_a_warmup_the_confident_time_is_0():
    assert confident_time(0, warmup_steps=0) == 0.0


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 0.0), (10_000, 0.0), (12_500, 0.075), (15_000, 0.15), (20_000, 0.3), (1_500_000, 0.3)],
)
def test_alpha_of_sit_by_hand(step, value):
    assert alpha(step) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "value"),
    [(20_000, 0.6), (25_000, 0.6), (100_000, 0.3), (225_000, 0.2), (2_500_000, 0.06)],
)
def test_alpha_of_repa_by_hand(step, value):
    assert alpha(step, reference=0.6, decay_steps=25_000) == pytest.approx(value, abs=1e-12)


def test_alpha_decays_while_it_still_warms_up():
    assert alpha(15_000, decay_steps=5000) == pytest.approx(0.15 / math.sqrt(3))


def test_alpha_without_warmup_is_a_step_at_the_delay():
    values = [alpha(n, delay_steps=5, warmup_steps=0) for n in (4, 5, 6)]
    assert values == [0.0, 0.3, 0.3]
    assert alpha(0, delay_steps=0, warmup_steps=0) == 0.3


@pytest.mark.parametrize(
    ("step", "share"), [(0, 0.0), (2500, 0.2475), (10_000, 0.99), (10**6, 0.99)]
)
def test_the_tangent_s_share_rises_and_stays(step, share):
    assert tangent_share(step, most=0.99) == pytest.approx(share)


def test_without_warmup_the_tangent_is_whole():
    assert tangent_share(0, warmup_steps=0) == 1.0
