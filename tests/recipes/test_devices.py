"""In the hook `setup` Lightning's module.device says where a recipe will be moved to, while it is not there yet."""

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy

from freeflow_lightning.callbacks import (
    DiversityAlarm,
    HealthMonitor,
    PeriodicFID,
    StudentEMA,
    TrajectoryError,
)
from freeflow_lightning.recipes import student_checks
from freeflow_lightning.recipes.student_rate import find_scale
from freeflow_lightning.teachers import DDPMTeacher, check_convention
from nets.random_weights import tiny_sit
from recipes.every_recipe import RECIPES
from tiny import data, fit


class MovedLater(SingleDeviceStrategy):
    """Its device is one without data until the recipe is moved."""

    def __init__(self):
        super().__init__("cpu")
        self.shown = "cpu"

    @property
    def root_device(self):
        return torch.device(self.shown)

    def setup_environment(self):
        super().setup_environment()
        self.shown = "meta"

    def setup(self, trainer):
        self.shown = "cpu"
        super().setup(trainer)


def watchers():
    return [
        StudentEMA(),
        PeriodicFID(reference_samples=8, steps=2, features="flat"),
        TrajectoryError(count=4, points=2, steps=2),
        HealthMonitor(count=4),
        DiversityAlarm(count=4, steps=2),
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_all_is_asked_where_the_networks_are(name, monkeypatch):
    recipe, wanted = RECIPES[name](), []
    move = recipe.to

    def note(device):
        wanted.append(device.type)
        return recipe if device.type == "meta" else move(device)  # there its weights would be lost

    monkeypatch.setattr(recipe, "to", note)
    prior = data(batch_size=4, val_samples=8, val_batch_size=8)
    fit(recipe, *watchers(), prior=prior, max_steps=1, strategy=MovedLater())
    assert wanted == ["meta", "cpu"]  # at once, since large networks are slow on a CPU


@pytest.mark.parametrize("name", RECIPES)
def test_callbacks_ask_a_narrow_teacher_in_its_precision(name):
    prior = data(batch_size=4, val_samples=8, val_batch_size=8)
    trainer = fit(RECIPES[name](), *watchers(), prior=prior, precision="bf16-true")
    assert trainer.callback_metrics["fid/student"].isfinite()


def test_validation_draws_at_the_guidance_given_in_every_precision(monkeypatch):
    recipe = RECIPES["freeflow"]()
    recipe.evaluation_guidance = 1.3
    monkeypatch.setattr(recipe, "flow_map", lambda x, t, s, condition, gamma: gamma)
    with HalfPrecision("bf16-true").forward_context():
        (gamma,) = recipe.generate(torch.zeros(1, 3, 4, 4), None).tolist()
    assert gamma == pytest.approx(1.3)  # 1.297 in bfloat16


def test_a_student_s_differences_are_measured_where_it_is(monkeypatch):
    recipe, seen = RECIPES["freeflow"](), []

    def note(student, x, condition, step):
        seen.extend([x.device.type, condition.device.type])
        return 0.0

    monkeypatch.setattr(student_checks, "difference_error", note)
    student_checks.check_time_step(recipe.student.to("meta"), recipe.teacher, 0.01)
    assert seen == ["meta", "meta"]


def test_the_raw_output_is_worth_the_same_in_every_precision():
    teacher = DDPMTeacher(tiny_sit(seed=1), (3, 4, 4), num_classes=5).bfloat16()
    with HalfPrecision("bf16-true").forward_context():
        scales = find_scale(teacher, torch.device("cpu")), check_convention(teacher).output_scale
    assert scales == pytest.approx((157.4, 157.4), abs=0.1)  # 127 with a time in bfloat16
