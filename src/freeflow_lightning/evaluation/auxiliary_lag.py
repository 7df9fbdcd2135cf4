"""How far the auxiliary network is behind the student."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from freeflow_lightning.evaluation.velocity_gaps import PLACES, draw_noise_like
from freeflow_lightning.flow import interpolate, take, training_generator
from freeflow_lightning.objectives import auxiliary as auxiliary_residual
from freeflow_lightning.objectives import equalise
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import TrainedAuxiliary


class AuxiliaryLag(NamedTuple):
    """The auxiliary's loss at each r [K]: now, after more steps with the student held still, the
    teacher's in its place.
    """

    r: Tensor
    now: Tensor
    later: Tensor
    teacher: Tensor

    @property
    def gained(self) -> float:
        """The share of its loss that the auxiliary network still had to gain."""
        return float(1 - self.later.mean() / self.now.mean())


def measure_lag(
    student: FlowMap,
    auxiliary: TrainedAuxiliary,
    which: Draw,
    guidance: float,
    *,
    steps: int = 100,
    batch_size: int = 256,
    samples: int = 512,
    advance: Callable[[int], None] | None = None,
) -> AuxiliaryLag:
    """Return how far the auxiliary network is behind the student: what more training of it alone
    would gain (see Eq. 12).

    A copy of G trains for `steps` more steps as before while the student stands still; the same
    held-out draws judge both. The teacher's velocity in G's place is the optimum of a student whose
    samples are the teacher's (unguided).
    """
    trained = copy.deepcopy(auxiliary.network)
    optimizer = torch.optim.Adam(
        [p for p in trained.parameters() if p.requires_grad],
        lr=auxiliary.lr,
        betas=auxiliary.betas,
    )
    held_out = HeldOut.draw(student, which, guidance, samples, batch_size)
    now = held_out.losses(auxiliary.network)
    for step in range(steps):
        generator = training_generator(which.seed, 0, step, student.device)
        loss = _training_loss(trained, student, auxiliary, batch_size, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if advance is not None:
            advance(1)
    later = held_out.losses(trained)
    teacher = held_out.losses(lambda x, r, c, gamma: student.teacher(x, r, c))
    return AuxiliaryLag(torch.tensor(PLACES), now, later, teacher)


class HeldOut(NamedTuple):
    """The student's samples f of held-out noise, and the noise n that they are noised by, in
    batches of (f, n, condition, gamma).
    """

    batches: list[tuple[Tensor, Tensor, Any, Tensor]]

    @classmethod
    @torch.no_grad()
    def draw(
        cls, student: FlowMap, which: Draw, guidance: float, samples: int, batch_size: int
    ) -> "HeldOut":
        """Draw `samples` of them, the first ones of `which`."""
        z, condition = which.noise(student.teacher, torch.arange(samples), student.device)
        n = draw_noise_like(z, which.seed)
        batches = []
        for rows in torch.arange(samples, device=student.device).split(batch_size):
            c, gamma = take(condition, rows), torch.full((len(rows),), guidance, device=z.device)
            batches.append((student(z[rows], c, guidance), n[rows], c, gamma))
        return cls(batches)

    @torch.no_grad()
    def losses(self, network: Callable[..., Tensor]) -> Tensor:
        """Return the mean square error per element of a G(x, r, condition, gamma) at each of
        PLACES, [K].
        """
        total, samples = torch.zeros(len(PLACES)), 0
        for f, n, c, gamma in self.batches:
            for k, place in enumerate(PLACES):
                r = torch.full_like(gamma, place)
                error = network(interpolate(f, n, r), r, c, gamma=gamma) - (f - n)
                total[k] += error.flatten(1).square().mean(1).sum().cpu()
            samples += len(f)
        return total / samples


def _training_loss(
    network: nn.Module,
    student: FlowMap,
    auxiliary: TrainedAuxiliary,
    batch_size: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the loss that the auxiliary network was trained with, on a batch of the
    generator's.
    """
    device, shape = student.device, (batch_size, *student.teacher.sample_shape)
    z = torch.randn(shape, generator=generator, device=device)
    condition = student.teacher.draw_condition(batch_size, generator)
    low, high = auxiliary.guidance_range
    gamma = low + (high - low) * torch.rand(batch_size, generator=generator, device=device)
    n = torch.randn(shape, generator=generator, device=device)
    r = auxiliary.r.sample(batch_size, generator)
    f = student(z, condition, gamma)
    output = network(interpolate(f, n, r), r, condition, gamma=gamma)
    residual = auxiliary_residual(network, f, n, r, output=output)
    if auxiliary.output_scale is not None:
        residual = equalise(residual, auxiliary.output_scale(r) ** 2)
    return residual.surrogate().mean()
