"""The check of sign and time: exact fields and trained weights pass, every wrong reading is named."""

import pytest
import torch
from torch import nn

import tiny
from freeflow_lightning.teachers import (
    GaussianMixtureTeacher,
    SiTTeacher,
    SiTVelocity,
    Teacher,
    VelocityTeacher,
    check_convention,
)
from freeflow_lightning.teachers.convention_check import TURNED
from teachers.mixture import LABELS, MEANS, STD, WEIGHTS
from teachers.test_sit import repas_network, sits_network


class Turned(Teacher):
    """A teacher with sign, time or both turned round."""

    def __init__(self, teacher, sign, flip):
        super().__init__()
        self.teacher, self.sign, self.flip = teacher, sign, flip
        self.sample_shape, self.num_classes = teacher.sample_shape, teacher.num_classes

    def velocity(self, x, t, condition):
        return self.sign * self.teacher(x, 1 - t if self.flip else t, condition)


EXACT = {
    "trained digits": lambda: SiTTeacher("embedded:digits"),
    "three classes": tiny.mixture,
    "no classes, mean 0": lambda: GaussianMixtureTeacher([[2.0, 0.0], [-2.0, 0.0]], 0.4),
    "far from 0": lambda: GaussianMixtureTeacher([[20.0, 0.0]], 0.4),
    "one dimension": lambda: GaussianMixtureTeacher(
        [[2.0], [-2.0], [0.0]], [0.5, 0.2, 1.0], labels=[0, 1, 1]
    ),
    "pictures": lambda: GaussianMixtureTeacher(
        torch.linspace(-2, 2, 18).view(2, 1, 3, 3), 0.5, labels=[0, 1]
    ),
}
VERDICTS = {
    "as it is": "right",
    "sign": "wrong sign",
    "time": "wrong time",
    "sign and time": "wrong sign and time",
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("turned", TURNED)
@pytest.mark.parametrize("name", EXACT)
def test_every_wrong_reading_is_named(name, turned, seed):
    evidence = check_convention(Turned(EXACT[name](), *TURNED[turned]), seed=seed)
    assert evidence.verdict == VERDICTS[turned], evidence.summary()
    if turned == "as it is":
        assert evidence.correlation < -0.95
        assert evidence.spread < 0.2
        evidence.raise_if_wrong()
    else:
        with pytest.raises(
            ValueError,
            match=rf"has the {evidence.verdict}: .*check_teacher=False(?s:.)*correlation of u\(z, 1\)",
        ):
            evidence.raise_if_wrong()


@pytest.mark.parametrize(
    ("network", "convention", "other"),
    [(sits_network, "sit", "repa"), (repas_network, "repa", "sit")],
)
def test_the_exact_mixture_in_a_wrong_convention_is_caught(network, convention, other):
    teacher = lambda name: VelocityTeacher(
        SiTVelocity(lambda x, t, y: network(x.double(), t.double(), y), name), (2,), 2
    )
    exact = GaussianMixtureTeacher(MEANS, STD, WEIGHTS, LABELS)
    g = torch.Generator().manual_seed(0)
    x, t, y = (
        2 * torch.randn(500, 2, generator=g),
        torch.rand(500, generator=g),
        torch.randint(3, (500,), generator=g),
    )
    torch.testing.assert_close(
        teacher(convention)(x, t, y).float(), exact(x, t, y), atol=1e-5, rtol=1e-5
    )
    assert check_convention(teacher(convention)).verdict == "right"
    evidence = check_convention(teacher(other))
    assert evidence.verdict == "wrong sign and time"
    assert (
        evidence.correlation < -0.99
    )  # the prior alone does not tell an ideal field from its mirror image


FINE = {
    "a pull to the middle": lambda x, t, condition: -x,
    "an uneven pull": lambda x, t, condition: -x * (1 + t[:, None]),
    "nothing": lambda x, t, condition: torch.zeros_like(x),
    "not a number": lambda x, t, condition: x * torch.nan,
    "a wind": lambda x, t, condition: torch.ones_like(x),
}


@pytest.mark.parametrize("name", FINE)
def test_toys_are_not_accused(name):
    assert check_convention(VelocityTeacher(FINE[name], (2,))).verdict in ("right", "unclear")


@pytest.mark.parametrize("seed", range(5))
def test_random_networks_are_unclear_whatever_is_turned_round(seed):
    for turned in TURNED.values():
        assert check_convention(Turned(tiny.learned_teacher(seed), *turned)).verdict == "unclear"


def test_it_costs_two_evaluations_where_the_prior_decides():
    calls = []

    class Counted(Turned):
        def velocity(self, x, t, condition):
            calls.append(len(x))
            return super().velocity(x, t, condition)

    check_convention(Counted(SiTTeacher("embedded:digits"), 1, False))
    assert calls == [16, 16]
    calls.clear()
    check_convention(Counted(GaussianMixtureTeacher(torch.zeros(1, 64, 64), 0.4), 1, False))
    assert calls == [16] * (2 + 2 * 19)


def test_trees_of_conditions_are_repeated():
    class Prompted(Teacher):
        sample_shape = (4,)

        def draw_condition(self, n, generator):
            return {"text": torch.randn(n, 4, generator=generator), "mask": None}

        def velocity(self, x, t, condition):
            return condition["text"] - x

    assert check_convention(Prompted()).verdict == "right"


def test_fit_refuses_a_wrong_teacher_unless_told_not_to():
    wrong = lambda: Turned(tiny.mixture(), *TURNED["sign"])
    with pytest.raises(ValueError, match="the teacher's velocity has the wrong sign"):
        tiny.fit(tiny.module(wrong()), max_steps=1)
    tiny.fit(tiny.module(wrong(), check_teacher=False), max_steps=1)
    tiny.fit(tiny.module(), max_steps=1)


def test_fit_warns_of_an_unclear_teacher():
    with pytest.warns(
        UserWarning, match=r"VelocityTeacher: sign and time unclear(?s:.)*as it is .*correlation"
    ):
        tiny.fit(tiny.module(tiny.learned_teacher()), max_steps=1)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_fit_checks_in_the_precision_of_training(precision):
    with pytest.raises(ValueError, match="wrong sign"):
        tiny.fit(tiny.module(VelocityTeacher(Ahead(), (2,), 2)), max_steps=1, precision=precision)


class Ahead(nn.Module):
    """x times a parameter."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(2))

    def forward(self, x, t, condition):
        return x * self.factor
