"""What a teacher breaks is named; what keeps its promises passes."""

import pytest
import torch
from torch import nn

from freeflow_lightning.nets import MLP
from freeflow_lightning.teachers import GaussianMixtureTeacher, SiTTeacher, Teacher, VelocityTeacher, examine

ALL = ["shape", "inputs", "finite", "deterministic", "rows", "gradient"]


def field(function, classes=0):
    return VelocityTeacher(function, (3,), classes)


def of_the_first_row(x, t, condition):
    return -x * t[0]


def in_place(x, t, condition):
    return x.mul_(-1)


def enabling(x, t, condition):
    with torch.enable_grad():
        return x * torch.ones(3, requires_grad=True)


class WithoutNull(Teacher):
    sample_shape, num_classes = (3,), 0

    def velocity(self, x, t, condition):
        return -x

    def draw_condition(self, n, generator):
        return torch.randn(n, 4, generator=generator)


class OddNull(WithoutNull):
    def null_condition(self, condition):
        return condition[:, :2]


class NullTooFar(WithoutNull):
    """Its table of classes has no row for the null class."""

    def __init__(self):
        super().__init__()
        self.table, self.num_classes = nn.Embedding(5, 3), 5

    def draw_condition(self, n, generator):
        return torch.randint(5, (n,), generator=generator)

    def null_condition(self, condition):
        return torch.full_like(condition, 5)

    def velocity(self, x, t, condition):
        return -x + self.table(condition)


def batch_norm():
    norm = nn.BatchNorm1d(3).train()
    return VelocityTeacher(lambda x, t, condition: -norm(x), (3,))


BROKEN = {
    "fails": (field(lambda x, t, c: x @ torch.ones(5, 5)), "shape", r"fails on two states of shape \[2, 3\].*RuntimeError"),
    "shape": (field(lambda x, t, c: x[:, :2]), "shape", r"returned shape \[2, 2\] for states of shape \[2, 3\]"),
    "tuple": (field(lambda x, t, c: (x, [])), "shape", "returned tuple: a velocity is one tensor"),
    "in place": (field(in_place), "inputs", "changes its input x in place"),
    "NaN at t = 0": (field(lambda x, t, c: -x / t[:, None]), "finite", r"not finite .* at t = 0: "),
    "infinite at t = 1": (field(lambda x, t, c: x / (1 - t)[:, None]), "finite", r"at t = 1: "),
    "random": (field(lambda x, t, c: -x + torch.randn_like(x)), "deterministic", "not deterministic: two equal calls differ"),
    "time of the first row": (field(of_the_first_row), "rows", "depends on the other rows .* own t"),
    "batch norm": (batch_norm(), "rows", "fails on a single sample .ValueError: Expected more than 1 value"),
    "the batch's mean": (field(lambda x, t, c: x.mean(0) - x), "rows", "depends on the other rows"),
    "enables gradients": (field(enabling), "gradient", r"requires grad under torch.no_grad"),
    "no null": (WithoutNull(), "null condition", "WithoutNull has no null condition"),
    "odd null": (OddNull(), "null condition", r"no condition like the others: expected .* \[4, 4\], .* \[4, 2\]"),
    "null class out of range": (NullTooFar(), "null condition", "fails on the null condition .IndexError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(name):
    teacher, check, message = BROKEN[name]
    *before, last = examine(teacher.requires_grad_(False), guided=check == "null condition")
    assert last.check == check
    assert not any(finding.problem for finding in before)
    with pytest.raises(ValueError, match=message):
        last.raise_if_broken()


@pytest.mark.parametrize(
    "teacher",
    [
        SiTTeacher("embedded:digits"),
        GaussianMixtureTeacher([[2.0, 0.0], [-2.0, 1.0]], 0.5, labels=[0, 1]),
        VelocityTeacher(MLP((3,), 8, 1, num_classes=4), (3,), 4),
    ],
    ids=lambda teacher: type(teacher).__name__,
)
def test_a_sound_teacher_passes(teacher):
    findings = list(examine(teacher.eval().requires_grad_(False), guided=True))
    assert [finding.check for finding in findings] == [*ALL, "null condition"]
    assert not [finding for finding in findings if finding.problem]
    assert [finding.check for finding in examine(teacher, guided=False)] == ALL


def test_the_null_condition_is_measured():
    teacher = VelocityTeacher(lambda x, t, c: torch.where((c == 4)[:, None], 2.0, 1.0) * torch.ones_like(x), (3,), 4)
    *_, last = examine(teacher, guided=True)
    assert "by 100%" in last.evidence


def test_the_cause_is_kept():
    (finding,) = examine(BROKEN["fails"][0], guided=False)
    with pytest.raises(ValueError, match="fails on") as raised:
        finding.raise_if_broken()
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_a_network_that_is_no_attribute_is_seen():
    net = nn.Linear(3, 3)
    gradient = list(examine(field(lambda x, t, c: net(x)), guided=False))[-1]
    assert "not an attribute" in gradient.evidence
    gradient = list(examine(VelocityTeacher(MLP((3,), 8, 1), (3,)).requires_grad_(False), guided=False))[-1]
    assert gradient.evidence == "none: the teacher is frozen"
