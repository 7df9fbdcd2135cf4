"""CallCounter and the budget that it is spent from, against counts by hand."""

import pytest
import torch

from freeflow_lightning.flow import ExactJVP, SortedPair, TeacherPath, training_generator
from freeflow_lightning.objectives import Lagrangian, Semigroup
from freeflow_lightning.profiling.budget import Budget, BudgetedTraining, evaluations_per_step
from freeflow_lightning.profiling.call_counter import CallCounter
from freeflow_lightning.profiling.clock import Clock
from freeflow_lightning.profiling.step_time import networks_of
from freeflow_lightning.recipes import FlowMapModule
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


def budgeted(m, folder, points, amount):
    measured = []

    def measure(recipe, spent):
        recipe.teacher(torch.ones(4, 2), torch.ones(4), torch.tensor([0, 1, 0, 1]))  # not counted
        measured.append(spent)
        return list(spent)

    budget = Budget("evaluations", amount, points)
    clock = Clock(torch.device("cpu"))
    return BudgetedTraining(budget, measure, clock, folder / "last.ckpt"), measured


def test_a_run_ends_with_the_step_that_spends_its_budget(tmp_path):
    m = module(learned_teacher(), skip_idle_rows=False)
    step = evaluations_per_step(m, ROWS)
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
