"""The mixture of mixture.py as a network of each family: in its own path, time, prediction and labels."""

import torch
from torch import Tensor, nn

from freeflow_lightning.teachers import (
    Betas,
    DDPMTeacher,
    EDMTeacher,
    GaussianPath,
    LinearPath,
    PathTeacher,
    TrigonometricPath,
    VarianceExplodingPath,
    VariancePreservingPath,
    VelocityTeacher,
)
from freeflow_lightning.teachers.predictions import Coefficients
from teachers.mixture import LABELS, MEANS, NULL, STD, WEIGHTS, posterior

CLASSES = 2


class Network(nn.Module):
    """Computes `output(y, time, label)` in float64 and answers in the state's precision; has one parameter, 0."""

    def __init__(self, output):
        super().__init__()
        self.output, self.zero = output, nn.Parameter(torch.zeros(()))

    def forward(self, y, time, label):
        return self.output(y.double(), time.double(), label).to(y.dtype) + self.zero


def path_network(place, output) -> Network:
    """`place(time)` gives a and b of y = a data + b noise, `output(data, noise, y, time)` what the network answers."""

    def network(y, time, label):
        data, noise = posterior(y, *place(time), label)
        return output(data, noise, y, time[:, None])

    return Network(network)


def log_sigmas(schedule) -> Tensor:
    abar = schedule.abars().clamp(min=2.0**-24)
    return ((1 - abar) / abar).log() / 2


def ddpm(prediction, schedule=None, **changes) -> DDPMTeacher:
    """A network that knows its schedule at integer steps and interpolates log sigma between them."""
    schedule = schedule or Betas()
    table = log_sigmas(schedule)

    def place(k):
        low = k.floor().long().clamp(max=len(table) - 2)
        sigma = torch.lerp(table[low], table[low + 1], k - low).exp()
        return 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()

    def output(data, noise, y, k):
        a, b = place(k[:, 0])
        return {
            "epsilon": noise,
            "sample": data,
            "v_prediction": a[:, None] * noise - b[:, None] * data,
        }[prediction]

    return DDPMTeacher(
        path_network(place, output), (2,), prediction, schedule, num_classes=CLASSES, **changes
    )


def labels_of(one_hot: Tensor) -> Tensor:
    return torch.where(one_hot.sum(1) > 0, one_hot.argmax(1), NULL)


def edm(sigma_data=0.5, data_scale=1.0) -> EDMTeacher:
    """F = (D - c_skip y) / c_out of the mixture shrunk by data_scale."""

    def network(y_in, c_noise, one_hot):
        sigma = (4 * c_noise).exp()
        y = y_in * (sigma**2 + sigma_data**2).sqrt()[:, None]
        data, _ = posterior(
            data_scale * y, torch.ones_like(sigma), data_scale * sigma, labels_of(one_hot)
        )
        sigma = sigma[:, None]
        skip, out = (
            sigma_data**2 / (sigma**2 + sigma_data**2),
            sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt(),
        )
        return (data / data_scale - skip * y) / out

    return EDMTeacher(Network(network), (2,), CLASSES, sigma_data=sigma_data, data_scale=data_scale)


class Quadratic(GaussianPath):
    """y = (1 - tau)^2 data + 3 tau^2 noise, a path of no family; at its ends the velocity does not tell data from noise."""

    t_min, t_max = 1e-4, 1 - 1e-4

    def tau(self, t):
        root = (t / 3).sqrt()
        return root / (root + (1 - t).sqrt())

    def coefficients(self, tau):
        return Coefficients((1 - tau) ** 2, 3 * tau**2, 2 * (tau - 1), 6 * tau)


def on(path, prediction, place, output) -> PathTeacher:
    return PathTeacher(path_network(place, output), path, prediction, (2,), CLASSES)


LINEAR = lambda t: (1 - t, t)
EXPLODING = lambda sigma: (torch.ones_like(sigma), sigma)
PRESERVING = lambda tau: ((-tau / 2).exp(), (-torch.expm1(-tau)).sqrt())


def preserving_rates(tau: Tensor) -> tuple[Tensor, Tensor]:
    """da/dtau and db/dtau by hand."""
    return -(-tau / 2).exp() / 2, (-tau).exp() / (2 * (-torch.expm1(-tau)).sqrt())


EXACT = {
    "velocity": lambda: VelocityTeacher(
        path_network(LINEAR, lambda d, n, y, t: d - n), (2,), CLASSES
    ),
    "diffusers flow": lambda: on(
        LinearPath(scale=1000), "velocity", lambda k: LINEAR(k / 1000), lambda d, n, y, k: n - d
    ),
    "Lumina2, Z-Image, SiT": lambda: on(
        LinearPath(reverse=True), "velocity", lambda tau: (tau, 1 - tau), lambda d, n, y, tau: d - n
    ),
    "epsilon": lambda: ddpm("epsilon"),
    "v": lambda: ddpm("v_prediction"),
    "x": lambda: ddpm("sample"),
    "score": lambda: on(
        VarianceExplodingPath(), "score", EXPLODING, lambda d, n, y, sigma: -n / sigma
    ),
    "score, variance preserved": lambda: on(
        VariancePreservingPath(tau_min=1e-5),
        "score",
        PRESERVING,
        lambda d, n, y, tau: -n / PRESERVING(tau)[1],
    ),
    "velocity, variance preserved": lambda: on(
        VariancePreservingPath(tau_min=1e-5),
        "velocity",
        PRESERVING,
        lambda d, n, y, tau: preserving_rates(tau)[0] * d + preserving_rates(tau)[1] * n,
    ),
    "EDM D": lambda: on(VarianceExplodingPath(), "data", EXPLODING, lambda d, n, y, sigma: d),
    "EDM F": edm,
    "EDM F, unit variance": lambda: edm(data_scale=2.0),
    "TrigFlow": lambda: on(
        TrigonometricPath(),
        "velocity",
        lambda tau: (tau.cos(), tau.sin()),
        lambda d, n, y, tau: tau.cos() * n - tau.sin() * d,
    ),
    "a general path": lambda: on(
        Quadratic(),
        "velocity",
        lambda tau: ((1 - tau) ** 2, 3 * tau**2),
        lambda d, n, y, tau: 2 * (tau - 1) * d + 6 * tau * n,
    ),
}
"""Teachers that answer with the mixture's own velocity. A new family joins the contract suite with its line here."""


def moments(label: int) -> tuple[Tensor, Tensor]:
    """Mean [2] and covariance [2, 2] of the mixture's components of a label."""
    weights = torch.where((label == LABELS) | (label == NULL), WEIGHTS, 0.0)
    weights = weights / weights.sum()
    mean = weights @ MEANS
    second = torch.einsum("k,ki,kj->ij", weights, MEANS, MEANS) + (
        weights * STD**2
    ).sum() * torch.eye(2, dtype=torch.float64)
    return mean, second - mean[:, None] * mean
