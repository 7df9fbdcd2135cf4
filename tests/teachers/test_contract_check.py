"""What a teacher breaks is named; what keeps its promises passes."""

import pytest
import torch
from torch import nn

from freeflow_lightning import FreeFlowModule
from freeflow_lightning.nets import MLP
from freeflow_lightning.teachers import (
    GaussianMixtureTeacher,
    SiTTeacher,
    Teacher,
    VelocityTeacher,
    check_contract,
    check_convention,
)
from tiny import fit, shaken

ALL = ["shape", "inputs", "finite", "deterministic", "rows", "gradient", "backbone"]


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


class NullNotFinite(NullTooFar):
    def velocity(self, x, t, condition):
        return -x / (condition != 5)[:, None]


def batch_norm():
    norm = nn.BatchNorm1d(3).train()
    return VelocityTeacher(lambda x, t, condition: -norm(x), (3,))


BROKEN = {
    "fails": (
        field(lambda x, t, c: x @ torch.ones(5, 5)),
        "shape",
        r"fails on two states of shape \[2, 3\].*RuntimeError",
    ),
    "shape": (
        field(lambda x, t, c: x[:, :2]),
        "shape",
        r"returned shape \[2, 2\] for states of shape \[2, 3\]",
    ),
    "tuple": (field(lambda x, t, c: (x, [])), "shape", "returned tuple: a velocity is one tensor"),
    "in place": (field(in_place), "inputs", "changes its input x in place"),
    "NaN at t = 0": (field(lambda x, t, c: -x / t[:, None]), "finite", r"not finite .* at t = 0: "),
    "infinite at t = 1": (field(lambda x, t, c: x / (1 - t)[:, None]), "finite", r"at t = 1: "),
    "random": (
        field(lambda x, t, c: -x + torch.randn_like(x)),
        "deterministic",
        "not deterministic: two equal calls differ",
    ),
    "time of the first row": (
        field(of_the_first_row),
        "rows",
        "depends on the other rows .* own t",
    ),
    "batch norm": (
        batch_norm(),
        "rows",
        "fails on a single sample .ValueError: Expected more than 1 value",
    ),
    "the batch's mean": (field(lambda x, t, c: x.mean(0) - x), "rows", "depends on the other rows"),
    "enables gradients": (field(enabling), "gradient", r"requires grad under torch.no_grad"),
    "no null": (WithoutNull(), "null condition", "WithoutNull has no null condition"),
    "odd null": (
        OddNull(),
        "null condition",
        r"no condition like the others: expected .* \[4, 4\], .* \[4, 2\]",
    ),
    "null not finite": (
        NullNotFinite(),
        "null condition",
        "velocity of the null condition is of another shape than the states, or not finite",
    ),
    "null class out of range": (
        NullTooFar(),
        "null condition",
        "fails on the null condition .IndexError",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(name):
    teacher, check, message = BROKEN[name]
    *before, last = check_contract(teacher.requires_grad_(False), guided=check == "null condition")
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
    findings = list(check_contract(teacher.eval().requires_grad_(False), guided=True))
    assert [finding.check for finding in findings] == [*ALL, "null condition", "decoder"]
    assert not [finding for finding in findings if finding.problem]
    assert [finding.check for finding in check_contract(teacher, guided=False)] == [*ALL, "decoder"]


def evidence(teacher, check, guided=False):
    return next(
        finding.evidence
        for finding in check_contract(teacher, guided=guided)
        if finding.check == check
    )


def test_the_null_condition_is_measured():
    teacher = VelocityTeacher(
        lambda x, t, c: torch.where((c == 4)[:, None], 2.0, 1.0) * torch.ones_like(x), (3,), 4
    )
    assert "by 100%" in evidence(teacher, "null condition", guided=True)


def test_the_cause_is_kept():
    (finding,) = check_contract(BROKEN["fails"][0], guided=False)
    with pytest.raises(ValueError, match="fails on") as raised:
        finding.raise_if_broken()
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_a_network_that_is_no_attribute_is_seen():
    net = nn.Linear(3, 3)
    assert "not an attribute" in evidence(field(lambda x, t, c: net(x)), "gradient")
    gradient = evidence(VelocityTeacher(MLP((3,), 8, 1), (3,)).requires_grad_(False), "gradient")
    assert gradient == "none: the teacher is frozen"


class Converted(Teacher):
    """velocity(x, t) = convert(network, x, t), where backbone() is the network as it is."""

    sample_shape = (6,)

    def __init__(self, convert):
        super().__init__()
        self.convert, self.net = convert, shaken(MLP((6,), 8, 1), size=0.5)

    def velocity(self, x, t, condition):
        return self.convert(self.net, x, t)

    def backbone(self):
        return self.net


class Pair(nn.Module):
    def forward(self, x, t, condition):
        return x, t


class Keyed(nn.Module):
    def forward(self, x, sigma):
        return x


CONVENTIONS = {
    "sign": (
        lambda net, x, t: -net(x, t),
        r"velocity\(\) is -backbone\(x, t\): the sign is the other",
    ),
    "time": (
        lambda net, x, t: net(x, 1 - t),
        r"velocity\(\) is backbone\(x, 1 - t\): the time is 1 - t and not t",
    ),
    "sign and time": (
        lambda net, x, t: -net(x, 1 - t),
        r"velocity\(\) is -backbone\(x, 1 - t\): the sign is the other and the time is 1 - t and not t",
    ),
    "time factor": (
        lambda net, x, t: net(x, 1000 * t),
        r"is backbone\(x, 1000 t\): the time is 1000 t and not t",
    ),
    "sign and time factor": (
        lambda net, x, t: -net(x, 1000 * t),
        r"is -backbone\(x, 1000 t\): the sign is the other and",
    ),
    "steps from 0 to 999": (
        lambda net, x, t: -net(x, 999 * (1 - t)),
        r"the time is 999 \(1 - t\) and not t",
    ),
    "factor": (
        lambda net, x, t: -3 * net(x, t),
        r"velocity\(\) is -3 times backbone\(x, t\): a factor is missing",
    ),
    "noise": (
        lambda net, x, t: (x - net(x, 1000 * t)) / (1.01 - t)[:, None],
        r"made of x and backbone\(x, 1000 t\): it predicts something else",
    ),
    "another function": (lambda net, x, t: -(x**3), "neither its sign nor a factor"),
}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_backbone_in_another_convention_is_found_with_the_likely_cause(convention):
    convert, cause = CONVENTIONS[convention]
    teacher = Converted(convert).eval().requires_grad_(False)
    *before, last = check_contract(teacher, guided=False)
    assert last.check == "backbone"
    assert not any(finding.problem for finding in before)
    with pytest.raises(
        ValueError,
        match=rf"Converted\.backbone\(\) is not the velocity .*they differ by \d+%.*{cause}",
    ):
        last.raise_if_broken()
    assert "backbone" not in [
        finding.check for finding in check_contract(teacher, guided=False, starts_student=False)
    ]


@pytest.mark.parametrize(
    ("net", "message"),
    [(Pair(), "returns tuple, and velocity shape"), (Keyed(), "fails where velocity")],
)
def test_a_backbone_that_is_called_otherwise_is_found(net, message):
    teacher = Converted(lambda own, x, t: -x)
    teacher.net = net
    with pytest.raises(ValueError, match=rf"Converted\.backbone\(\) {message}"):
        list(check_contract(teacher, guided=False))[-1].raise_if_broken()


def test_fit_refuses_such_a_backbone_unless_the_student_has_a_network_of_its_own():
    teacher = Converted(CONVENTIONS["sign"][0])
    unguided = {"guidance_range": (1.0, 1.0), "evaluation_guidance": 1.0, "check_teacher": False}
    with pytest.raises(ValueError, match="the sign is the other"):
        fit(FreeFlowModule(teacher, **unguided), max_steps=1)
    fit(FreeFlowModule(teacher, MLP((6,), 8, 1), **unguided), max_steps=1)


class Sized(Teacher):
    """u(z, 1) = -size z: of an exact teacher of one point, times `size`."""

    sample_shape = (8,)

    def __init__(self, size, scale=1.0):
        super().__init__()
        self.size, self.scale = size, scale

    def velocity(self, x, t, condition):
        return -self.size * x

    def output_scale(self, t):
        return self.scale * torch.ones_like(t)


def test_a_spread_of_u_at_the_prior_far_from_1_is_named_with_its_cure():
    for size in (0.9, 1.0, 1.2):
        assert check_convention(Sized(size)).size_problem is None
    large = check_convention(Sized(1.6, 157.4)).size_problem
    assert "spread of u(z, 1) is 1.6 times that of the noise" in large
    assert "multiplied by 157.4" in large
    assert "t_max 0.97" in large
    small = check_convention(Sized(0.3)).size_problem
    assert "spread of u(z, 1) is 0.3 times" in small
    assert "t_max" in small


class Noisy(Sized):
    """At the prior the amplified error of its network alone; at t = 0 what a noise network says there: u = x."""

    def velocity(self, x, t, condition):
        error = torch.sin(37 * x).cumsum(1)
        return torch.where(t[:, None] > 0.5, x + self.scale * error, x)


def test_an_amplified_error_at_the_prior_accuses_nobody_of_a_wrong_sign():
    assert check_convention(Noisy(1.0, 1.0)).verdict == "wrong sign and time"
    evidence = check_convention(Noisy(1.0, 157.0))
    assert evidence.verdict == "unclear"
    assert "t_max" in evidence.size_problem


class Flow(nn.Module):
    """u = -1.6 x, with weights."""

    def __init__(self):
        super().__init__()
        self.net = shaken(MLP((8,), 8, 1), size=0.0)

    def forward(self, x, t, condition=None):
        return self.net(x, t) - 1.6 * x


class Loud(Sized):
    """Its student starts from a network whose output is worth 157 in u."""

    def __init__(self):
        super().__init__(1.6, 157.4)
        self.net = Flow()

    def backbone(self):
        return self.net


def test_fit_warns_of_the_spread_and_of_bfloat16():
    model = FreeFlowModule(Loud(), guidance_range=(1.0, 1.0), evaluation_guidance=1.0)
    with pytest.warns(UserWarning, match="the spread of u") as warned:
        fit(model, max_steps=1, precision="bf16-mixed")
    told = " ".join(str(warning.message) for warning in warned)
    assert "u(z, 1) is 1.6 times" in told
    assert "bfloat16 rounds the raw output by 0.2 %, which is 31% of u at the prior" in told
