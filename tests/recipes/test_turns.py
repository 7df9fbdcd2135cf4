"""A correction that leads at the end: turns of student and auxiliary network, and its strength."""

from itertools import pairwise

import pytest
import torch

from freeflow_lightning import FlowMapModule
from freeflow_lightning.callbacks import AlphaSchedule, FinalCorrection, StudentEMA
from freeflow_lightning.flow import Uniform, expand, flow_map, interpolate, training_generator
from freeflow_lightning.objectives import ConstantWeight, KLWeight
from freeflow_lightning.recipes import Correction
from recipes.test_flow_map import Rows
from tiny import fit, learned_teacher, mlp, module, same, weights, with_shaken_networks

RATES = {"student_lr": 1e-2, "auxiliary_lr": 1e-2}


def any_step(**settings):
    return with_shaken_networks(FlowMapModule(learned_teacher(), mlp(), **RATES, **settings))


RECIPES = {
    "FreeFlow": lambda **s: module(learned_teacher(), correction_fraction=0.5, **s),
    "correction alone": lambda **s: module(learned_teacher(), correction_fraction=1.0, **s),
    "any-step": lambda **s: any_step(correction=Correction(0.5), **s),
    "later starts": lambda **s: any_step(correction=Correction(0.5, starts=Uniform(0.2, 0.8)), **s),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("guided", [False, True])
def test_a_turn_costs_what_it_says_and_moves_the_student_once(name, guided):
    m = RECIPES[name](
        guidance_range=(1.0, 2.0) if guided else (1.0, 1.0),
        evaluation_guidance=1.0,
        skip_idle_rows=False,
        check_teacher=False,
    )
    m.setup = lambda stage: None  # which asks everything once
    networks = {"student": m.student, "teacher": m.teacher, "auxiliary": m.auxiliary}
    counts = {name: Rows(network) for name, network in networks.items()}
    starts = [weights(m.student)]
    learned = [weights(m.auxiliary)]

    class Watch(StudentEMA):
        def on_train_batch_end(self, *_):
            starts.append(weights(m.student))
            learned.append(weights(m.auxiliary))

    fit(m, FinalCorrection(0, auxiliary_updates=3), Watch([0.9]), max_steps=6)
    seen = {name: sum(rows for rows, _ in count.calls) / (6 * 8) for name, count in counts.items()}
    assert seen == pytest.approx(m.evaluations_per_sample())
    assert [not same(a, b) for a, b in pairwise(starts)] == [False, False, True] * 2
    assert all(not same(a, b) for a, b in pairwise(learned))


@pytest.mark.parametrize("name", RECIPES)
def test_the_auxiliary_alone_learns_the_noising_velocity_of_the_samples(name):
    """|| G(x_r, r) - (x0 - n) ||^2 / 2 in the mean, x0 = f(x_t, t, 0), by hand."""
    m = RECIPES[name]()
    m.moves_student = False
    rows = m.draw(16, training_generator(0, 0, 0))
    m.loss(rows).loss.backward()
    t = rows.start
    with torch.no_grad():
        x = rows.z
        if rows.t is not None:
            F = m.student(x, torch.ones_like(t), rows.condition, delta=1 - t, gamma=rows.gamma)
            x = torch.where(expand(t < 1, x), x + expand(1 - t, x) * F, x)
        x0 = flow_map(x, m.student(x, t, rows.condition, delta=t, gamma=rows.gamma), t)
    seen = [p.grad.clone() for p in m.auxiliary.parameters()]
    assert all(p.grad is None for p in m.student.parameters())

    m.zero_grad()
    g = m.auxiliary(interpolate(x0, rows.n, rows.r), rows.r, rows.condition, gamma=rows.gamma)
    ((g - (x0 - rows.n)).square().flatten(1).sum(1) / 2).mean().backward()
    for mine, grad in zip(m.auxiliary.parameters(), seen, strict=True):
        torch.testing.assert_close(mine.grad, grad)


@pytest.mark.parametrize("name", ["FreeFlow", "later starts"])
def test_its_strength_is_that_of_alpha_times_its_lead(name):
    """Beside an AlphaSchedule, whichever comes first in the list."""
    seen = {}
    for first in (True, False):
        callbacks = [FinalCorrection(2, lead=5.0, auxiliary_updates=2), AlphaSchedule(1, 2)]
        m = RECIPES[name](check_teacher=False)

        class Watch(StudentEMA):
            def on_train_batch_end(self, *_):
                figures.append((m.alpha * m.lead / m.alpha_ref, m.moves_student))  # noqa: B023

        figures = []
        fit(m, *(callbacks if first else callbacks[::-1]), Watch([0.9]), max_steps=6)
        seen[first] = figures
    expected = [(0, True), (0, True), (2.5, False), (5, True), (5, False), (5, True)]
    assert seen[True] == seen[False] == [(pytest.approx(lead), turn) for lead, turn in expected]


def test_a_lead_is_the_same_as_a_larger_alpha():
    led, strong = RECIPES["any-step"](), any_step(correction=Correction(0.5, alpha_ref=0.3 * 7))
    led.lead = 7.0
    for m in (led, strong):
        m.loss(m.draw(16, training_generator(0, 0, 0))).loss.backward()
    for a, b in zip(led.student.parameters(), strong.student.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("name", ["FreeFlow", "later starts"])
@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_resumed_run_ends_where_the_whole_one_does(name, stop, tmp_path):
    """Stopped before the correction leads, where it begins to, and between two turns."""

    def train(steps, **options):
        m = RECIPES[name](check_teacher=False)
        final = FinalCorrection(3, auxiliary_updates=3)
        return m, fit(m, final, StudentEMA([0.9]), max_steps=steps, **options)

    m, _ = train(7)
    _, half = train(stop)
    half.save_checkpoint(tmp_path / "half.ckpt")
    again, _ = train(7, ckpt_path=tmp_path / "half.ckpt")
    assert same(weights(m), weights(again))


WEIGHED = {
    "FreeFlow": lambda w: RECIPES["FreeFlow"](correction_weight=w),
    "later starts": lambda w: any_step(
        correction=Correction(0.5, weight=w, starts=Uniform(0.2, 0.8))
    ),
}


@pytest.mark.parametrize("name", WEIGHED)
def test_the_correction_counts_by_its_weight(name):
    def corrected(weight):
        m = WEIGHED[name](weight)
        draw = m.draw(16, training_generator(0, 0, 0))
        return draw.correction.r, m.loss(draw).residuals["correction"].error

    r, plain = corrected(ConstantWeight())
    _, weighed = corrected(KLWeight())
    torch.testing.assert_close(weighed, expand((1 - r) ** 2 / r, plain) * plain)
