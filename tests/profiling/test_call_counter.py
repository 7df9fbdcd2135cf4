"""CallCounter and the budget that it is spent from, against counts by hand."""

import shutil

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback

from freeflow_lightning.flow import (
    ExactJVP,
    SortedPair,
    TeacherPath,
    falling_rate,
    training_generator,
)
from freeflow_lightning.objectives import Lagrangian, Semigroup
from freeflow_lightning.profiling.budget import Budget, BudgetedTraining, evaluations_of_run
from freeflow_lightning.profiling.call_counter import CallCounter
from freeflow_lightning.profiling.clock import Clock
from freeflow_lightning.profiling.step_time import networks_of
from freeflow_lightning.recipes import FlowMapModule
from recipes.every_recipe import RECIPES
from tiny import data, fit, learned_teacher, mlp, module, same, weights

ROWS = 8


def of_maps(objective, **changes):
    """A recipe of maps on the teacher's path of one Euler step."""
    settings = {"states": TeacherPath(1, "euler"), "times": SortedPair(), "skip_idle_rows": False}
    unguided = {"guidance_range": (1.0, 1.0), "evaluation_guidance": 1.0}
    return FlowMapModule(
        learned_teacher(), mlp(), objective, **(settings | unguided | changes), student_lr=1e-2
    )


@pytest.mark.parametrize(
    ("recipe", "student", "teacher"),
    [
        # with its gradient 3, dF/ds forward 2; the teacher at f, and on the path
        (lambda: of_maps(Lagrangian(ExactJVP())), 3 + 2, 1 + 1),
        # F and dF/ds at once, both with their gradient
        (lambda: of_maps(Lagrangian(ExactJVP(), full_gradient=True)), 6, 1 + 1),
        # three quarters are maps split in two, the others F(x, t, t) = u
        (lambda: of_maps(Semigroup(), anchor_fraction=0.25), 3 + 0.75 * 2, 0.25 + 1),
    ],
)
def test_passes_count_by_what_they_are(recipe, student, teacher):
    m, counter = recipe(), CallCounter()
    counter.is_on = True
    with counter.watch(networks_of(m)):
        m.loss(m.draw(ROWS, training_generator(0, 0, 0)))
    assert counter.evaluations == {"student": student * ROWS, "teacher": teacher * ROWS}


def test_a_guided_velocity_is_two_samples_and_a_frozen_teacher_has_no_gradient():
    m, counter = module(learned_teacher(), skip_idle_rows=False), CallCounter()
    counter.is_on = True
    with counter.watch(networks_of(m)):
        m.loss(m.draw(ROWS, training_generator(0, 0, 0)))
    declared = m.evaluations_per_sample()["teacher"]
    assert counter.rows["teacher"] == {"forward": declared * ROWS}
    m.teacher.velocity(torch.ones(2, 2), torch.ones(2), torch.tensor([0, 1]))  # no longer watched
    assert counter.rows["teacher"] == {"forward": declared * ROWS}


def budgeted(m, folder, points, amount, **settings):
    measured = []

    def measure(recipe, spent):
        recipe.teacher(torch.ones(4, 2), torch.ones(4), torch.tensor([0, 1, 0, 1]))  # not counted
        measured.append(spent)
        return list(spent)

    budget = Budget("evaluations", amount, points)
    clock = Clock(torch.device("cpu"))
    return BudgetedTraining(budget, measure, clock, folder / "last.ckpt", **settings), measured


@pytest.mark.parametrize("name", ["dmd", "transition"])
def test_what_a_run_takes_counts_all_kinds_of_its_steps(tmp_path, name):
    m, again = RECIPES[name](), RECIPES[name]()
    m.skip_idle_rows = again.skip_idle_rows = False
    training, _ = budgeted(m, tmp_path, points=1, amount=1e9)
    fit(m, training, max_steps=10, prior=data(batch_size=4, length=10))
    assert evaluations_of_run(again, 4, steps=10) == pytest.approx(training.counter.total)


def test_a_run_ends_with_the_step_that_spends_its_budget(tmp_path):
    m = module(learned_teacher(), skip_idle_rows=False)
    step = evaluations_of_run(m, ROWS, steps=1)
    training, measured = budgeted(m, tmp_path, points=2, amount=4.5 * step)
    fit(m, training, max_steps=-1, prior=data(batch_size=ROWS, length=2))
    assert [spent.steps for spent in measured] == [3, 5]
    assert [sum(spent.evaluations.values()) for spent in measured] == [3 * step, 5 * step]
    assert training.counter.total == 5 * step
    assert measured[0].seconds < measured[1].seconds


def test_a_run_goes_on_from_its_last_measurement_bit_for_bit(tmp_path):
    def run(folder, points, amount, ckpt_path=None):
        m = module(learned_teacher())
        training, _ = budgeted(m, folder, points, amount)
        fit(m, training, max_steps=-1, prior=data(batch_size=ROWS, length=2), ckpt_path=ckpt_path)
        return m, training

    whole, _ = run(tmp_path / "whole", 2, 2000)
    run(tmp_path / "cut", 1, 1000)
    resumed, training = run(tmp_path / "cut", 2, 2000, tmp_path / "cut" / "last.ckpt")
    assert same(weights(whole), weights(resumed))
    assert len(training.points) == 2
    over, training = run(tmp_path / "cut", 2, 2000, tmp_path / "cut" / "last.ckpt")
    assert same(weights(whole), weights(over))  # nothing was left to spend
    assert training.points[-1][0] == over.trainer.global_step


def test_rates_fall_over_a_share_of_the_budget_and_go_on_where_a_run_was_cut(tmp_path):
    def run(folder, ckpt_path=None):
        m = module(learned_teacher())
        training, _ = budgeted(m, folder, 2, 2000, decay=0.75)
        rates, measure = [], training.measure

        def keep_first(recipe, spent):
            if training.checkpoint.is_file():
                shutil.copy(training.checkpoint, folder / "first.ckpt")
            return measure(recipe, spent)

        training.measure = keep_first
        note = LambdaCallback(
            on_train_batch_end=lambda trainer, *_: rates.append(
                (training.spent, trainer.optimizers[0].param_groups[0]["lr"])
            )
        )
        prior = data(batch_size=ROWS, length=2)
        fit(m, note, training, max_steps=-1, prior=prior, ckpt_path=ckpt_path)
        return m, rates

    whole, rates = run(tmp_path)
    before = [0.0, *(spent for spent, _ in rates[:-1])]
    factors = [falling_rate(spent, 2000, 1500) for spent in before]
    assert [rate for _, rate in rates] == pytest.approx([whole.student_lr * x for x in factors])
    assert factors[-1] < 0.2
    resumed, later = run(tmp_path / "again", tmp_path / "first.ckpt")
    assert later == rates[-len(later) :]
    assert len(later) < len(rates)
    assert same(weights(whole), weights(resumed))
