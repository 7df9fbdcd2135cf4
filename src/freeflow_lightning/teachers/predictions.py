"""What networks on a Gaussian path y = a data + b noise predict, and u on the linear path from
it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow import expand


class Coefficients(NamedTuple):
    """Where a state y = a data + b noise stands on its path, a and b at least 0; all of one
    shape.
    """

    a: Tensor
    b: Tensor
    a_rate: Tensor
    """da/dtau: what a velocity dy/dtau needs to know."""
    b_rate: Tensor


class Means(NamedTuple):
    """E[data | y] and E[noise | y], [B, ...]."""

    data: Tensor
    noise: Tensor


PredictionType = Callable[[Tensor, Tensor, Coefficients], Means]
"""(raw output, state y, coefficients broadcast to y) to the posterior means; linear in (raw, y)."""


def data_prediction(raw: Tensor, y: Tensor, c: Coefficients) -> Means:
    """The network predicts the data ("sample", x0, a denoiser D)."""
    return Means(raw, (y - c.a * raw) / c.b)


def noise_prediction(raw: Tensor, y: Tensor, c: Coefficients) -> Means:
    """The network predicts the noise (epsilon)."""
    return Means((y - c.b * raw) / c.a, raw)


def v_prediction(raw: Tensor, y: Tensor, c: Coefficients) -> Means:
    """The network predicts v = a noise - b data on a variance-preserving path, a^2 + b^2 = 1."""
    return Means(c.a * y - c.b * raw, c.b * y + c.a * raw)


def score_prediction(raw: Tensor, y: Tensor, c: Coefficients) -> Means:
    """The network predicts the score grad log p(y) = -E[noise | y] / b."""
    return noise_prediction(-c.b * raw, y, c)


def velocity_prediction(raw: Tensor, y: Tensor, c: Coefficients) -> Means:
    """The network predicts dy/dtau = a' data + b' noise, along its own tau."""
    determinant = c.a * c.b_rate - c.a_rate * c.b
    return Means((c.b_rate * y - c.b * raw) / determinant, (c.a * raw - c.a_rate * y) / determinant)


PREDICTIONS: dict[str, PredictionType] = {
    "data": data_prediction,
    "noise": noise_prediction,
    "v": v_prediction,
    "score": score_prediction,
    "velocity": velocity_prediction,
}


def prediction_type(prediction: str | PredictionType) -> PredictionType:
    """Look a prediction up by name; a callable is one already."""
    if callable(prediction):
        return prediction
    if prediction not in PREDICTIONS:
        raise ValueError(
            f"unknown prediction {prediction!r}: expected one of {sorted(PREDICTIONS)} or a "
            f"callable"
        )
    return PREDICTIONS[prediction]


def usual_size(prediction: PredictionType, c: Coefficients) -> Tensor:
    """Return the size of a prediction, [B]: 1 / b for a score, which networks are trained for with
    the weight b^2; 1 for others.

    >>> usual_size(score_prediction, Coefficients(*torch.tensor([[0.6], [0.8], [0.0], [0.0]])))
    tensor([1.2500])
    """
    return 1 / c.b if prediction is score_prediction else torch.ones_like(c.b)


def velocity_from_means(means: Means, x: Tensor, t: Tensor) -> Tensor:
    """u(x_t, t) from both posterior means: (x_t - noise) / (1 - t) for t <= 1/2 and (data - x_t) /
    t above.

    Both are u = data - noise, and each is taken where it divides by at least 1/2. Beyond a
    network's range of noise, where its means are those of another level, they are what its samplers
    use: from t = 1 they go to the predicted data.

    Args:
        means: E[data | x_t] and E[noise | x_t], [B, ...].
        x: states of the linear path, [B, ...].
        t: times in [0, 1], [B].
    """
    t = expand(t, x)
    low = t <= 0.5
    return (torch.where(low, -means.noise, means.data) + torch.where(low, x, -x)) / torch.where(
        low, 1 - t, t
    )


def norm(t: Tensor, sigma_data: float = 1.0) -> Tensor:
    """sqrt(t^2 + sigma_data^2 (1 - t)^2): the standard deviation of x_t for data of standard
    deviation sigma_data.

    >>> norm(torch.tensor([0.0, 0.5, 1.0]), 0.5)
    tensor([0.5000, 0.5590, 1.0000])
    """
    return (t**2 + sigma_data**2 * (1 - t) ** 2).sqrt()


def balanced_scale(t: Tensor, sigma_data: float = 1.0) -> Tensor:
    """sigma_data / norm: what a network output of constant size over t is worth in u, [B] (App.
    A.2, "same scale").

    The derivative of u by the raw output F of an EDM network, and for sigma_data = 1 that by v. Eq.
    11 divides the difference of velocities by it. The outputs of epsilon and x networks are of
    constant size too, but not their differences: those vanish like 1 - t and t at one end, where u
    does not; so their differences are measured in v as well.
    """
    return sigma_data / norm(t, sigma_data)
