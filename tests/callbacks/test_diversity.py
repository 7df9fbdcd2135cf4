import logging

import pytest
import torch

from freeflow_lightning.callbacks import DiversityAlarm
from freeflow_lightning.nets import MLP
from freeflow_lightning.teachers import GaussianMixtureTeacher
from tiny import data, fit, module, trainer


def validate(m, alarm):
    return trainer(callbacks=[alarm]).validate(m, data(val_samples=4), verbose=False)[0]


def generate(m, shrink):
    """A student that is the teacher but for the spread of each class about its mean."""

    def draw(z, condition):
        x = z * 0.4 + torch.tensor([[2.0, 0.0], [-1.0, 1.25]])[condition]
        middle = torch.stack([x[condition == c].mean(0) for c in condition.tolist()])
        return middle + torch.tensor(shrink)[condition][:, None] * (x - middle)

    m.generate = draw
    return m


def two_spots():
    return GaussianMixtureTeacher([[2.0, 0.0], [-1.0, 1.25]], 0.4, labels=[0, 1])


def test_the_share_of_each_class_is_that_of_its_own_spread(caplog):
    m = generate(module(two_spots()), [1.0, 0.25])
    m.evaluation_guidance = 1.0
    with caplog.at_level(logging.WARNING):
        seen = validate(m, DiversityAlarm(least=0.5, count=64, steps=64))
    assert seen["diversity/least"] == pytest.approx(0.25, rel=0.02)
    assert seen["diversity/mean"] == pytest.approx(0.625, rel=0.02)
    assert "samples of class 1 spread less than 0.5 of the teacher's, class 1 least" in caplog.text
    assert "class 0" not in caplog.text


def test_a_run_is_stopped_where_that_is_asked_and_else_only_warned():
    for stop, last in ((True, 4), (False, 8)):
        m = generate(module(two_spots()), [0.1, 0.1])
        prior = data(length=4, val_samples=4)
        done = fit(m, DiversityAlarm(count=8, stop=stop), prior=prior, max_steps=8)
        assert done.global_step == last


def test_a_teacher_without_classes_is_one_class():
    unguided = {"guidance_range": (1.0, 1.0), "evaluation_guidance": 1.0}
    teacher = GaussianMixtureTeacher([[2.0, 0.0], [-1.0, 1.25]], 0.4)
    m = module(teacher, network=MLP((2,), hidden_size=16, depth=2), **unguided)
    seen = validate(m, DiversityAlarm(count=8, steps=4))
    assert seen["diversity/least"] == seen["diversity/mean"]
