"""u = -x, whose flow map is f(z, delta) = exp(-delta) z: every diagnosis of its students is known."""

import torch
from torch import nn

from freeflow_lightning import FlowMap
from freeflow_lightning.flow import Uniform
from freeflow_lightning.students.open_student import TrainedAuxiliary
from freeflow_lightning.teachers import Teacher


class Decay(Teacher):
    sample_shape = (3,)

    def velocity(self, x, t, condition):
        return -x


class ExactMap(nn.Module):
    """The average velocity of Decay, times `scale`."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.weight = scale, nn.Parameter(torch.ones(1))

    def forward(self, x, t, condition=None, *, delta, gamma):
        return self.scale * x * (torch.expm1(-delta) / delta)[:, None]


def student(scale=1.0):
    return FlowMap(ExactMap(scale), Decay(), (1.0, 1.0))


def trained(network, lr=0.02):
    return TrainedAuxiliary(network, Uniform(0.0, 1.0), (1.0, 1.0), (0.0, 1.0), lr)
