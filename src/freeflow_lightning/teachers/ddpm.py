"""DDPM teachers (DiT, ADM, PixArt, Stable Diffusion 1 and 2): epsilon, v or x predicted at integer
steps of a beta schedule.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts, check_numbers
from freeflow_lightning.teachers.discrete_path import DiscretePath
from freeflow_lightning.teachers.gaussian_path import PathTeacher
from freeflow_lightning.teachers.predictions import (
    PredictionType,
    data_prediction,
    noise_prediction,
    v_prediction,
)
from freeflow_lightning.teachers.reading.weights import load_weight_file

DDPMPrediction = Literal["epsilon", "v_prediction", "sample"]
DDPM_PREDICTIONS: dict[str, PredictionType] = {
    "epsilon": noise_prediction,
    "v_prediction": v_prediction,
    "sample": data_prediction,
}
"""By diffusers' names; each takes the raw output, the state sqrt(abar) x0 + sqrt(1 - abar) eps and
its coefficients.
"""


class Schedule(ABC):
    """What a DDPM was trained with: abar_k at its integer steps."""

    @abstractmethod
    def abars(self) -> Tensor:
        """abar_k = prod (1 - beta_j), falling, float64 [K]; diffusers' alphas_cumprod."""


@dataclass(frozen=True)
class Betas(Schedule):
    """Betas whose `power`-th root is linear in k.

    Args:
        start: beta of the first step. DiT, ADM, PixArt: 1e-4; Stable Diffusion: 0.00085.
        end: beta of the last step. DiT, ADM, PixArt: 0.02; Stable Diffusion: 0.012.
        steps: K.
        power: 1 is "linear", 2 is diffusers' "scaled_linear" (Stable Diffusion).
    """

    start: float = 1e-4
    end: float = 0.02
    steps: int = 1000
    power: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(0, 1, without_low=True, without_high=True, start=self.start)
        check_numbers(self.start, 1, without_high=True, end=self.end)
        check_numbers(0, without_low=True, power=self.power)
        check_counts(2, steps=self.steps)

    def abars(self) -> Tensor:
        roots = torch.linspace(
            self.start ** (1 / self.power),
            self.end ** (1 / self.power),
            self.steps,
            dtype=torch.float64,
        )
        return (1 - roots**self.power).cumprod(0)


@dataclass(frozen=True)
class CosineBetas(Schedule):
    """Improved DDPM's cosine schedule, diffusers' "squaredcos_cap_v2".

    Args:
        steps: K.
        offset: the s of the paper.
        largest: bound on beta.
    """

    steps: int = 1000
    offset: float = 0.008
    largest: float = 0.999

    def __post_init__(self) -> None:
        check_counts(2, steps=self.steps)
        check_numbers(0, without_low=True, offset=self.offset)
        check_numbers(0, 1, without_low=True, without_high=True, largest=self.largest)

    def abars(self) -> Tensor:
        k = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        f = ((k + self.offset) / (1 + self.offset) * math.pi / 2).cos() ** 2
        return (1 - (1 - f[1:] / f[:-1]).clamp(max=self.largest)).cumprod(0)


@dataclass(frozen=True)
class GivenAbars(Schedule):
    """A table of one's own, for example scheduler.alphas_cumprod.tolist().

    Args:
        values: abar_k in [0, 1), falling.
    """

    values: Sequence[float]

    def __post_init__(self) -> None:
        for value in self.values:
            check_numbers(0, 1, without_high=True, values=value)
        if len(self.values) < 2 or any(b >= a for a, b in pairwise(self.values)):
            raise ValueError(
                f"expected values to be two or more falling numbers, got {self.values}"
            )

    def abars(self) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)


class FirstChannels(nn.Module):
    """The first half of a network's channels: the prediction of one that has learned its variance
    too (DiT, ADM, PixArt).

    Args:
        net: (y, k, condition) to [B, 2 C, ...].
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, y: Tensor, k: Tensor, condition: Any = None) -> Tensor:
        """[B, C, ...]."""
        return self.net(y, k, condition).chunk(2, dim=1)[0]


class DDPMTeacher(PathTeacher):
    """A network trained by DDPM: it predicts epsilon, v or x0 from sqrt(abar_k) x0 + sqrt(1 -
    abar_k) eps and k.

    u is asked at the step of the same signal-to-noise ratio, and taken from the predicted noise for
    t <= 1/2 and from the predicted data above. A schedule that ends with some signal left (Stable
    Diffusion 1: t = 0.936) has its last step asked beyond, with x itself as state, as its samplers
    do at their first step: such a teacher carries its own error there.

    Args:
        network: (y, k, condition) to its prediction, [B, C, ...] or with a learned variance [B, 2
            C, ...].
        sample_shape: shape of one state, [C, ...].
        prediction: what it predicts, by diffusers' names.
        schedule: Betas (the default is DiT's and ADM's), CosineBetas or GivenAbars.
        learned_variance: the network's second half of channels is a variance and is dropped.
        num_classes: classes that the condition labels, the label `num_classes` being the null
            class; 0 for no condition.
        checkpoint: the network's weights, a .safetensors file or a state dict; the network as it is
            if not given.
        whole_steps: round k, for a network that looks it up in a table.
        t_max: highest t at which the network is asked. An epsilon network's data is its state times
            1 / sqrt(abar) (157 at the end of DiT's schedule), which multiplies its error too: 0.97
            brings it to 32.
        weights_key: which of the file's weights to take, where it holds several networks.

    >>> class Zero(nn.Module):  # no noise anywhere: the state is the data, u = x / (1 - t)
    ...     def forward(self, y, k, condition):
    ...         return 0 * y
    >>> DDPMTeacher(Zero(), (1,)).velocity(torch.ones(1, 1), torch.tensor([0.5]), None)
    tensor([[2.]])
    """

    def __init__(
        self,
        network: nn.Module,
        sample_shape: tuple[int, ...],
        prediction: DDPMPrediction = "epsilon",
        schedule: Schedule = Betas(),
        learned_variance: bool = False,
        num_classes: int = 0,
        checkpoint: str | Path | None = None,
        whole_steps: bool = False,
        t_max: float = 1.0,
        weights_key: str | None = None,
    ) -> None:
        if prediction not in DDPM_PREDICTIONS:
            raise ValueError(
                f"unknown prediction {prediction!r}: expected one of {sorted(DDPM_PREDICTIONS)}"
            )
        if checkpoint is not None:
            load_weight_file(network, checkpoint, weights_key)
        net = FirstChannels(network) if learned_variance else network
        path = DiscretePath(schedule.abars(), whole_steps, t_max)
        super().__init__(net, path, DDPM_PREDICTIONS[prediction], sample_shape, num_classes)
