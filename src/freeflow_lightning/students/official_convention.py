"""How the files of the official students are read, and what their samples tell where nothing says it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from freeflow_lightning.nets import ScalarConditioned
from freeflow_lightning.teachers import Convention, SiTVelocity

Scalar = Literal["delta", "gamma"]


@dataclass(frozen=True)
class OfficialConvention:
    """How to read an official student; what is "auto" is measured on a few samples.

    Args:
        prior_time: the network's time at the prior: 1, or 0 as in SiT.
        sign: 1 if its output points from prior to data, x - z; -1 if from data to prior, z - x.
        delta_scale: factor on delta before its sinusoid.
        gamma_scale: factor on gamma before its sinusoid.
        rename: embedders that are not recognised by name, for example {"foo_embedder": "delta"}.
        weights_key: which of a file's weights to take, where it holds several networks.
    """

    prior_time: Literal["auto", 0, 1] = "auto"
    sign: Literal["auto", 1, -1] = "auto"
    delta_scale: float = 1.0
    gamma_scale: float = 1.0
    rename: dict[str, Scalar] = field(default_factory=dict)
    weights_key: str | None = None

    def __post_init__(self) -> None:
        if self.prior_time not in ("auto", 0, 1) or self.sign not in ("auto", 1, -1):
            raise ValueError(
                f"expected prior_time 0, 1 or auto and sign 1, -1 or auto, got {self.prior_time} "
                f"and {self.sign}"
            )


class Resemblance(NamedTuple):
    """What z + sign * F(z, delta = 1) looks like, read with one sign and prior time.

    Args:
        std: standard deviation of the samples; near 1 for latents.
        smoothness: correlation of neighbouring pixels; far above 0 for pictures, 0 for noise.
    """

    std: float
    smoothness: float


def decide_convention(
    student: ScalarConditioned, convention: OfficialConvention, path: str | Path
) -> tuple[int, int, str]:
    """Prior time and sign, given or by the pictures that the student draws, and the evidence in
    words.

    Raises:
        ValueError: no reading draws pictures much smoother than the others.
    """
    if convention.prior_time != "auto" and convention.sign != "auto":
        return convention.prior_time, convention.sign, "prior time and sign as given"
    scores = {
        (time, sign): score
        for (time, sign), score in measure_readings(student).items()
        if convention.prior_time in ("auto", time) and convention.sign in ("auto", sign)
    }
    table = ", ".join(
        f"prior_time {time} sign {sign:+d}: std {score.std:.2f}, neighbours {score.smoothness:+.2f}"
        for (time, sign), score in scores.items()
    )
    best, second = sorted(scores, key=lambda reading: -scores[reading].smoothness)[:2]
    if not scores[best].smoothness > max(0.2, scores[second].smoothness + 0.1):
        raise ValueError(f"cannot tell prior time and sign of {path}: give both. Samples ({table})")
    return *best, f"prior_time {best[0]} and sign {best[1]:+d} as measured ({table})"


@torch.no_grad()
def measure_readings(
    student: ScalarConditioned, samples: int = 8
) -> dict[tuple[int, int], Resemblance]:
    """Return the scores of the samples that each prior time and sign give, two evaluations of a few
    noises.
    """
    backbone = student.backbone
    assert isinstance(backbone, SiTVelocity)
    generator, one = Generator().manual_seed(0), torch.ones(samples)
    z = torch.randn(samples, *backbone.net.sample_shape, generator=generator)
    labels = torch.randint(backbone.net.num_classes or 1, (samples,), generator=generator)
    condition = labels if backbone.net.num_classes else None
    scores: dict[tuple[int, int], Resemblance] = {}
    for time in (0, 1):
        backbone.convention = Convention(time, 1)
        F = student(z, one, condition, delta=one, gamma=1.5 * one)
        scores |= {(time, sign): score(z + sign * F) for sign in (1, -1)}
    return scores


def score(x: Tensor) -> Resemblance:
    """Standard deviation, and correlation of vertical and horizontal neighbours about each
    channel's mean, of [B, C, H, W].
    """
    y = x - x.mean((0, 2, 3), keepdim=True)
    together = (y[..., 1:] * y[..., :-1]).mean() + (y[..., 1:, :] * y[..., :-1, :]).mean()
    return Resemblance(float(x.std()), float(together / (2 * y.square().mean()).clamp(min=1e-12)))
