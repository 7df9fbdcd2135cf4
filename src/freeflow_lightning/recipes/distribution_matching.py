"""The auxiliary network learns v_N of a student's samples, and DMD moves them along w (v_N - u)."""

from typing import NamedTuple

import torch
from torch import Tensor

from freeflow_lightning import objectives
from freeflow_lightning.flow import expand, flow_map, interpolate
from freeflow_lightning.objectives import Residual, ScoreWeight
from freeflow_lightning.recipes.correction import CorrectionDraw, equalise_auxiliary
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.outputs import Step


class NoisedSamples(NamedTuple):
    """A student's samples on the way back to noise.

    Args:
        x0: the samples, without gradient, [B, ...].
        x_r: the same noised to r, [B, ...].
        v_n: the auxiliary's velocity there, with its gradient, [B, ...].
        auxiliary: its residual, see Eq. 12.
    """

    x0: Tensor
    x_r: Tensor
    v_n: Tensor
    auxiliary: Residual


def noise_samples(module: Distillation, rows: CorrectionDraw, x0: Tensor) -> NoisedSamples:
    """Noise a student's samples to r, and ask the auxiliary for their velocity there.

    Args:
        module: the recipe, with an auxiliary network.
        rows: what noises the samples, and to which r.
        x0: the samples, without gradient, [B, ...].
    """
    network = module.auxiliary
    assert network is not None  # recipes of this correction have one
    x_r = interpolate(x0, rows.n, rows.r)
    v_n = network(x_r.to(rows.z.dtype), rows.r, rows.condition, gamma=rows.gamma)
    auxiliary = objectives.auxiliary(network, x0, rows.n, rows.r, output=v_n)
    return NoisedSamples(x0, x_r, v_n, auxiliary)


def learn_noising(module: Distillation, rows: CorrectionDraw) -> Step:
    """A step of the auxiliary network alone, on a sample of each row, see Eq. 12.

    Args:
        module: the recipe, with an auxiliary network.
        rows: at the states that they start at.
    """
    x, condition, gamma, t = rows.z, rows.condition, rows.gamma, rows.start
    with torch.no_grad():
        output = module.student(x, t, condition, delta=t, gamma=gamma)
    auxiliary = noise_samples(module, rows, flow_map(x, output, t)).auxiliary
    loss = equalise_auxiliary(module, auxiliary, rows.r).surrogate().mean()
    return Step(loss, {"auxiliary": auxiliary})


def match_distribution(
    module: Distillation,
    rows: CorrectionDraw,
    noised: NoisedSamples,
    output: Tensor,
    t: Tensor,
    weight: ScoreWeight,
    interval: tuple[float, float],
) -> tuple[Residual, Residual]:
    """Return the correction < output, sg(v_N - u) >, and the same with its error times t w.

    Args:
        module: the recipe.
        rows: the draw of the samples.
        noised: the samples at r.
        output: what the samples are made of, x0 = x_t + t output, with its gradient, [B, ...].
        t: the times that they start at, [B].
        weight: w, how much each error counts.
        interval: times r inside which the teacher is guided.
    """
    teacher = module.teacher_at(rows.z, rows.condition, rows.gamma, interval, rows.guided)
    u = teacher(noised.x_r, rows.r)
    error = noised.v_n.detach().to(noised.x_r.dtype) - u
    factor = t * weight(noised.x0, noised.x_r, u, rows.r)
    weighted = objectives.residual(output, expand(factor, error) * error)
    return objectives.residual(output, error), weighted
