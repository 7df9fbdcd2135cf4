"""Students to export: one of every kind of network, with weights that are nowhere zero, and a teacher beside them."""

import torch
from torch import nn

from freeflow_lightning import FlowMap
from freeflow_lightning.nets import MLP, Backbone, LoRA, ScalarConditioned
from freeflow_lightning.teachers import (
    Betas,
    Convention,
    DDPMTeacher,
    EDMTeacher,
    GaussianMixtureTeacher,
    LatentSpace,
    LinearPath,
    PathTeacher,
    SiTVelocity,
    TrigonometricPath,
    VarianceExplodingPath,
    VariancePreservingPath,
    VelocityTeacher,
)
from nets.random_weights import tiny_sit
from tiny import module, shaken


class Own(Backbone):
    """A network that the package does not have."""

    def __init__(self, width: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.t_embedder = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        self.enter, self.leave = (
            nn.Conv2d(1, width, 3, padding=1),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, x, t, condition=None):
        e = self.t_embedder(t[:, None]) + self.label(condition)
        return self.leave((self.enter(x) + e[..., None, None]).relu())


class Plain(nn.Module):
    """A raw network of one image channel (y, own time, condition): the kind that EDM and DDPM teachers wrap."""

    def __init__(self, out: int = 1) -> None:
        super().__init__()
        self.t_embedder = nn.Sequential(nn.Linear(1, 8), nn.SiLU(), nn.Linear(8, 8))
        self.enter, self.leave = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, out, 3, padding=1)

    def forward(self, y, time, condition=None):
        return self.leave(
            (self.enter(y) + self.t_embedder(time[:, None].float())[..., None, None]).relu()
        )


def student(teacher, scalars=("delta", "gamma"), **settings) -> FlowMap:
    """A student of the teacher's own network with embedders that have an effect."""
    torch.manual_seed(0)
    net = ScalarConditioned(teacher.network(), scalars, **settings)
    shaken(net.embedders, 3, 0.05)
    return FlowMap(net, teacher, (1.0, 2.0))


def sit(convention="sit") -> FlowMap:
    net = tiny_sit()
    space = LatentSpace(net.sample_shape, net.num_classes, None)
    velocity = SiTVelocity(net, convention)
    made = ScalarConditioned(velocity, ("delta", "gamma"))
    shaken(made.embedders, 3, 0.05)
    return FlowMap(made, space, (1.0, 2.0))


def official() -> FlowMap:
    net = tiny_sit()
    made = ScalarConditioned(
        SiTVelocity(net, Convention(0, -1)),
        ("delta", "gamma"),
        scale={"delta": 1000.0, "gamma": 2.0},
    )
    shaken(made.embedders, 3, 0.05)
    return FlowMap(made, LatentSpace(net.sample_shape, net.num_classes, None), (1.0, 2.0))


def mlp() -> FlowMap:
    return student(VelocityTeacher(shaken(MLP((2,), 16, 2, 2), 1), (2,), 2))


def lora() -> FlowMap:
    m = module(
        VelocityTeacher(shaken(MLP((2,), 16, 2, 2), 1), (2,), 2), network=None, lora=LoRA(rank=2)
    )
    return FlowMap(m.student, m.teacher, (1.0, 2.0))


def mixture() -> GaussianMixtureTeacher:
    return GaussianMixtureTeacher([[2.0, 0.0], [-2.0, 0.5], [0.0, 2.0]], 0.4, labels=[0, 1, 1])


def edm() -> FlowMap:
    net = shaken(Plain(), 1, 0.2)
    return student(EDMTeacher(net, (1, 4, 4), sigma_data=0.5, data_scale=2.0))


def ddpm() -> FlowMap:
    net = shaken(Plain(2), 1, 0.2)
    teacher = DDPMTeacher(
        net, (1, 4, 4), "v_prediction", Betas(steps=50), learned_variance=True, t_max=0.98
    )
    return student(teacher)


def path(path_, prediction) -> FlowMap:
    return student(PathTeacher(shaken(Plain(), 1, 0.2), path_, prediction, (1, 4, 4)))


OWN = {"students.export.students.Plain": {}, "students.export.students.Own": {"width": 8}}
STUDENTS = {
    "SiT": sit,
    "SiT of REPA": lambda: sit("repa"),
    "official": official,
    "MLP": mlp,
    "LoRA": lora,
    "EDM": edm,
    "DDPM": ddpm,
    "reversed path": lambda: path(LinearPath(reverse=True, scale=1000.0), "velocity"),
    "trigonometric path": lambda: path(TrigonometricPath(), "velocity"),
    "variance exploding path": lambda: path(VarianceExplodingPath(0.01, 50.0), "data"),
    "variance preserving path": lambda: path(VariancePreservingPath(0.01, 8.0), "score"),
    "own network": lambda: student(VelocityTeacher(shaken(Own(), 1, 0.2), (1, 4, 4), 3)),
}
