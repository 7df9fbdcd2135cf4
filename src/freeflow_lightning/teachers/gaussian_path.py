"""Any Gaussian path y = a data + b noise and any prediction on it, as u on the linear path: the
signal-to-noise ratio decides.

A state of the linear path and one of another path carry the same information where their b / a
agree: y = (a + b) x_t with t = b / (a + b). The velocity is then u = E[data | x_t] - E[noise |
x_t], whatever the network predicts.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts, check_numbers, check_shapes, expand
from freeflow_lightning.flow.interpolant import hypotenuse
from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.predictions import (
    Coefficients,
    PredictionType,
    balanced_scale,
    norm,
    prediction_type,
    usual_size,
    velocity_from_means,
)


class GaussianPath(ABC):
    """A family's own path: its coefficients, its time, and the range of t that it covers.

    t_min and t_max keep away from where a = 0, where b = 0 and, for a velocity, where a b' = a' b:
    there the prediction does not determine data and noise.
    """

    t_min: float = 0.0
    t_max: float = 1.0

    @abstractmethod
    def tau(self, t: Tensor) -> Tensor:
        """Return the path's own time at the signal-to-noise ratio of t in [t_min, t_max]: b(tau) /
        (a(tau) + b(tau)) = t, [B].
        """

    @abstractmethod
    def coefficients(self, tau: Tensor) -> Coefficients:
        """a, b and their rates at tau, [B] each."""

    def network_time(self, tau: Tensor) -> Tensor:
        """Return what the network is given for tau, [B]; tau itself unless it wants another
        scale.
        """
        return tau


@dataclass(frozen=True)
class LinearPath(GaussianPath):
    """y = (1 - tau) data + tau noise (diffusers flow models, REPA); reversed, y = tau data + (1 -
    tau) noise (SiT, Lumina2).

    Args:
        reverse: noise at tau = 0.
        scale: factor on tau as the network wants it, 1000 for most diffusers models.
    """

    reverse: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(0, without_low=True, scale=self.scale)

    def tau(self, t: Tensor) -> Tensor:
        return 1 - t if self.reverse else t

    def coefficients(self, tau: Tensor) -> Coefficients:
        one = torch.ones_like(tau)
        if self.reverse:
            return Coefficients(tau, 1 - tau, one, -one)
        return Coefficients(1 - tau, tau, -one, one)

    def network_time(self, tau: Tensor) -> Tensor:
        return self.scale * tau


@dataclass(frozen=True)
class TrigonometricPath(GaussianPath):
    """y = cos(tau) data + sin(tau) noise, tau in [0, pi / 2] (TrigFlow)."""

    def tau(self, t: Tensor) -> Tensor:
        return torch.atan2(t, 1 - t)

    def coefficients(self, tau: Tensor) -> Coefficients:
        return Coefficients(tau.cos(), tau.sin(), -tau.sin(), tau.cos())


class VarianceExplodingPath(GaussianPath):
    """y = data + sigma noise, tau = sigma in [sigma_min, sigma_max] (EDM's denoiser, score
    networks).

    Args:
        sigma_min: lowest level that the network was trained at.
        sigma_max: highest level.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        check_numbers(0, without_low=True, sigma_min=sigma_min)
        check_numbers(sigma_min, without_low=True, sigma_max=sigma_max)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.t_min = sigma_min / (1 + sigma_min)
        self.t_max = sigma_max / (1 + sigma_max)

    def tau(self, t: Tensor) -> Tensor:
        return t / (1 - t)

    def coefficients(self, tau: Tensor) -> Coefficients:
        one = torch.ones_like(tau)
        return Coefficients(one, tau, torch.zeros_like(tau), one)


class VariancePreservingPath(GaussianPath):
    """y = exp(-tau / 2) data + sqrt(1 - exp(-tau)) noise, tau in [tau_min, tau_max]: the
    variance-preserving SDE by the integral tau of its beta.

    Args:
        tau_min: least integral that the network was trained at.
        tau_max: largest. The higher, the more a score network's raw output is worth at the prior:
            148 at 10, 32 at 6.9.
    """

    def __init__(self, tau_min: float = 1e-3, tau_max: float = 10.0) -> None:
        check_numbers(0, without_low=True, tau_min=tau_min)
        check_numbers(tau_min, without_low=True, tau_max=tau_max)
        self.tau_min = tau_min
        self.tau_max = tau_max
        low, high = (math.sqrt(math.expm1(tau)) for tau in (tau_min, tau_max))  # b / a
        self.t_min = low / (1 + low)
        self.t_max = high / (1 + high)

    def tau(self, t: Tensor) -> Tensor:
        return torch.log1p((t / (1 - t)) ** 2)

    def coefficients(self, tau: Tensor) -> Coefficients:
        a, b = (-tau / 2).exp(), (-torch.expm1(-tau)).sqrt()
        return Coefficients(a, b, -a / 2, a**2 / (2 * b))


class PathVelocity(nn.Module):
    """A network in its own path and prediction as u(x, t, condition).

    Outside [t_min, t_max] the network is asked at the end of its range, with a state of the size
    that it expects there.

    Args:
        net: (y, network time, condition) to its prediction, [B, ...].
        path: the path that it was trained on.
        prediction: what it predicts: "data", "noise", "v", "score", "velocity" or a PredictionType.
        t_max: highest t at which the network is asked; the path's if that is lower.
    """

    def __init__(
        self,
        net: nn.Module,
        path: GaussianPath,
        prediction: str | PredictionType,
        t_max: float = 1.0,
    ) -> None:
        super().__init__()
        check_numbers(path.t_min, 1, without_low=True, t_max=t_max)
        self.net = net
        self.path = path
        self.prediction = prediction_type(prediction)
        self.t_max = min(t_max, path.t_max)

    def forward(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        """u(x, t | condition), [B, ...]; computed in float32 or wider around the network."""
        tau, c = self._place(t)
        y = x * expand(hypotenuse(c.a, c.b) / norm(t), x)
        raw = self.net(y.to(x.dtype), self.path.network_time(tau), condition)
        return self._velocity(raw, y, x, t, c).to(x.dtype)

    def _place(self, t: Tensor) -> tuple[Tensor, Coefficients]:
        tau = self.path.tau(t.clamp(self.path.t_min, self.t_max))
        return tau, self.path.coefficients(tau)

    def _velocity(self, raw: Tensor, y: Tensor, x: Tensor, t: Tensor, c: Coefficients) -> Tensor:
        return velocity_from_means(
            self.prediction(raw, y, Coefficients(*(expand(k, x) for k in c))), x, t
        )

    def output_scale(self, t: Tensor) -> Tensor:
        """|du/d(raw output)| times the raw output's usual size at t, [B]: u is linear in the raw
        output.
        """
        _, c = self._place(t)
        zero = torch.zeros_like(t)
        return self._velocity(usual_size(self.prediction, c), zero, zero, t, c).abs()


class PathTeacher(Teacher):
    """A network of any Gaussian path and prediction as a teacher.

    Args:
        network: (y, network time, condition) to its prediction.
        path: LinearPath, TrigonometricPath, VarianceExplodingPath, VariancePreservingPath, a noise
            schedule of DDPM, or a GaussianPath of one's own.
        prediction: "data", "noise", "v", "score", "velocity" (dy/dtau) or a PredictionType.
        sample_shape: shape of one state.
        num_classes: classes that the condition labels, the label `num_classes` being the null
            class; 0 for no condition.
        t_max: highest t at which the network is asked; the path's if that is lower. At the prior
            the error of a score or noise network is multiplied by t_max / (1 - t_max) or more: 0.97
            brings that to 32.

    >>> class Zero(nn.Module):  # all data is 0: dy/dtau = noise = y / tau
    ...     def forward(self, y, tau, condition):
    ...         return y / tau[:, None]
    >>> PathTeacher(Zero(), LinearPath(), "velocity", (1,)).velocity(torch.ones(1, 1), torch.tensor([0.5]), None)
    tensor([[-2.]])
    """

    def __init__(
        self,
        network: nn.Module,
        path: GaussianPath,
        prediction: str | PredictionType,
        sample_shape: tuple[int, ...],
        num_classes: int = 0,
        t_max: float = 1.0,
    ) -> None:
        super().__init__()
        check_shapes(sample_shape=sample_shape)
        check_counts(0, num_classes=num_classes)
        self.function = PathVelocity(network, path, prediction, t_max)
        self.sample_shape = tuple(sample_shape)
        self.num_classes = num_classes

    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.function(x, t, condition)

    def backbone(self) -> nn.Module:
        return self.function

    def difference_scale(self, t: Tensor) -> Tensor:
        return balanced_scale(t)

    def output_scale(self, t: Tensor) -> Tensor:
        return self.function.output_scale(t)
