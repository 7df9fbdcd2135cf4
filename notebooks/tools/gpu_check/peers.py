"""One training step of other methods on the same network, written here for timing alone.

MeanFlow (Geng et al., 2025): an exact derivative of the student along the flow, the teacher's guided velocity as v. dmf
(decoupled MeanFlow, Lee et al., 2025) has the same step with the student's two times embedded in different blocks, which
costs as much: one row stands for both. DMD2 (Yin et al., 2024) without its GAN: a step of the student is an evaluation of it,
a guided teacher's and the fake score's; five steps of the fake score follow.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import ExactJVP
from freeflow_lightning.teachers import Teacher

FAKE_STEPS = 5
"""Updates of DMD2's fake score for one of the student."""
Student = Callable[[Tensor, Tensor, Tensor], Tensor]


class Batch(NamedTuple):
    """Noise z [B, ...], labels and guidance scales [B]."""

    z: Tensor
    labels: Tensor
    gamma: Tensor


def meanflow_step(student: nn.Module, teacher: Teacher, batch: Batch) -> Tensor:
    """|| F - sg(v - (t - s) dF/dt) ||^2 at noised states."""
    z, labels, gamma = batch
    t = torch.rand(len(z), device=z.device)
    delta = t * torch.rand_like(t)

    def average(x: Tensor, t: Tensor, delta: Tensor) -> Tensor:
        out: Tensor = student(x, t, labels, delta=delta, gamma=gamma)
        return out

    with torch.no_grad():
        v = teacher.guided_velocity(labels, gamma=gamma)(z, t)
        slope = ExactJVP().along(average, (z, t, delta), (-v, -1.0, -1.0))
        target = v + delta.view(-1, *[1] * (z.ndim - 1)) * slope
    return (average(z, t, delta) - target).square().mean()


def dmd2_student_loss(
    student: nn.Module, fake: nn.Module, teacher: Teacher, batch: Batch
) -> Tensor:
    """The student's sample along the difference of the two scores of it, noised."""
    z, labels, gamma = batch
    one = torch.ones(len(z), device=z.device)
    x = z + student(z, one, labels, delta=one, gamma=gamma)
    r = torch.rand(len(z), device=z.device)
    rows = r.view(-1, *[1] * (z.ndim - 1))
    with torch.no_grad():
        noised = (1 - rows) * x + rows * torch.randn_like(x)
        real = teacher.guided_velocity(labels, gamma=gamma)(noised, r)
        error = fake(noised, r, labels, gamma=gamma) - real
    return (x * error).mean()


def dmd2_fake_loss(student: nn.Module, fake: nn.Module, batch: Batch) -> Tensor:
    """The fake score by flow matching on the student's samples."""
    z, labels, gamma = batch
    one = torch.ones(len(z), device=z.device)
    with torch.no_grad():
        x = z + student(z, one, labels, delta=one, gamma=gamma)
        n, r = torch.randn_like(x), torch.rand(len(z), device=z.device)
        rows = r.view(-1, *[1] * (z.ndim - 1))
        noised = (1 - rows) * x + rows * n
    return (fake(noised, r, labels, gamma=gamma) - (x - n)).square().mean()
