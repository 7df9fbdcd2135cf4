"""The oracle: a Gaussian mixture, whose velocity is known in closed form."""

from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from freeflow_lightning.teachers.base import Teacher


class GaussianMixture(NamedTuple):
    """A mixture of isotropic Gaussians for each of B rows."""

    log_weights: Tensor
    """Normalised, [B, K]; -inf for a component that the row does not have."""
    means: Tensor
    """[B, K, *sample_shape]."""
    stds: Tensor
    """[B, K]."""

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n independent draws of each row, [n, B, *sample_shape]."""
        means, device = self.means, generator.device
        k = torch.multinomial(self.log_weights.exp(), n, replacement=True, generator=generator).T
        row = torch.arange(len(means), device=device)
        chosen, std = means[row, k], self.stds[row, k]
        noise = torch.randn(chosen.shape, generator=generator, device=device, dtype=means.dtype)
        return chosen + std.view(*k.shape, *[1] * (means.ndim - 2)) * noise


class GaussianMixtureTeacher(Teacher):
    """The exact velocity of a mixture of isotropic Gaussians, conditional on the component's label
    or not.

    u(x, t) = sum_k p(k | x) [ m_k + ((1 - t) s_k^2 - t) / v_k (x - (1 - t) m_k) ], v_k = (1 - t)^2
    s_k^2 + t^2.

    Args:
        means: component means m_k, [K, *sample_shape].
        std: standard deviations s_k > 0, one for all or one each.
        weights: component weights, [K], positive; equal if not given.
        labels: class of each component, [K] int from 0; without them the mixture is unconditional.

    >>> teacher = GaussianMixtureTeacher([[2.0], [-2.0]], 0.5, labels=[0, 1])
    >>> teacher.velocity(torch.zeros(2, 1), torch.ones(2), torch.tensor([0, 2]))  # class 0, and the null class
    tensor([[2.], [0.]])
    """

    means: Tensor
    std: Tensor
    log_weights: Tensor
    labels: Tensor

    def __init__(
        self,
        means: Tensor | list,
        std: float | Tensor | list[float],
        weights: Tensor | list[float] | None = None,
        labels: Tensor | list[int] | None = None,
    ) -> None:
        super().__init__()
        means = torch.as_tensor(means)
        means = means if means.is_floating_point() else means.float()
        k = len(means)
        if means.ndim < 2:
            raise ValueError(f"expected means of shape [K, *sample_shape], got {list(means.shape)}")
        std = torch.as_tensor(std, dtype=means.dtype).expand(k).clone()
        weights = torch.full((k,), 1 / k) if weights is None else weights
        weights = torch.as_tensor(weights, dtype=means.dtype)
        classes = torch.zeros(k, dtype=torch.long) if labels is None else torch.as_tensor(labels)
        _check_components(means, std, weights)
        _check_labels(classes, k)
        self.sample_shape = tuple(means.shape[1:])
        self.num_classes = 0 if labels is None else int(classes.max()) + 1
        self.register_buffer("means", means)
        self.register_buffer("std", std)
        self.register_buffer("log_weights", (weights / weights.sum()).log())
        self.register_buffer("labels", classes)

    def velocity(self, x: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        """Exact u(x, t | condition); labels [B] in 0 .. num_classes, the last one (null) and None
        mean the whole mixture.
        """
        m, s2 = self.means.flatten(1).to(x.dtype), self.std.to(x.dtype) ** 2
        offset, v, logits = self._components(x, t, condition)
        t = t.to(x.dtype)[:, None]
        per_component = m + (((1 - t) * s2 - t) / v)[..., None] * offset
        return torch.einsum("bk,bkd->bd", logits.softmax(1), per_component).view_as(x)

    def posterior(self, x: Tensor, t: Tensor, condition: Any = None) -> GaussianMixture:
        """p(x0 | x_t = x, condition), for each row a mixture again.

        Its weights are p(k | x), its means m_k + (1 - t) s_k^2 / v_k (x - (1 - t) m_k), its
        variances t^2 s_k^2 / v_k.

        Args:
            x: states, [B, *sample_shape].
            t: their times in [0, 1], [B].
            condition: labels as for `velocity`.

        >>> teacher = GaussianMixtureTeacher([[2.0], [-2.0]], 0.5)
        >>> teacher.posterior(torch.zeros(1, 1), torch.zeros(1)).means  # at t = 0 x is the sample
        tensor([[[0.],
                 [0.]]])
        """
        m, s2 = self.means.flatten(1).to(x.dtype), self.std.to(x.dtype) ** 2
        offset, v, logits = self._components(x, t, condition)
        t = t.to(x.dtype)[:, None]
        means = (m + ((1 - t) * s2 / v)[..., None] * offset).unflatten(2, self.sample_shape)
        return GaussianMixture(logits.log_softmax(1), means, t * (s2 / v).sqrt())

    def _components(self, x: Tensor, t: Tensor, condition: Any) -> tuple[Tensor, Tensor, Tensor]:
        """x - (1 - t) m_k [B, K, d], v_k [B, K] and log p(k | x) up to a constant [B, K]."""
        m, s2 = self.means.flatten(1).to(x.dtype), self.std.to(x.dtype) ** 2
        t = t.to(x.dtype)[:, None]
        v = (1 - t) ** 2 * s2 + t**2
        offset = x.flatten(1)[:, None] - (1 - t)[..., None] * m
        logits = self.log_weights.to(x.dtype) - 0.5 * (
            m.shape[1] * v.log() + offset.square().sum(-1) / v
        )
        if condition is not None and self.num_classes:
            others = (self.labels != condition[:, None]) & (condition[:, None] != self.num_classes)
            logits = logits.masked_fill(others, -torch.inf)
        return offset, v, logits

    def sample(self, n: int, generator: Generator, condition: Tensor | None = None) -> Tensor:
        """Exact samples of the mixture, or of the components with the labels `condition` [n]; [n,
        *sample_shape].
        """
        weights = self.log_weights.exp().expand(n, -1)
        if condition is not None and self.num_classes:
            weights = weights * (
                (self.labels == condition[:, None]) | (condition[:, None] == self.num_classes)
            )
        k = torch.multinomial(weights, 1, generator=generator)[:, 0]
        noise = torch.randn(
            n,
            *self.sample_shape,
            generator=generator,
            device=generator.device,
            dtype=self.means.dtype,
        )
        return self.means[k] + self.std[k].view(-1, *[1] * len(self.sample_shape)) * noise


def _check_components(means: Tensor, std: Tensor, weights: Tensor) -> None:
    """Refuse what is no mixture of K Gaussians (ValueError)."""
    if not all(bool(torch.isfinite(part).all()) for part in (means, std, weights)):
        raise ValueError("expected finite means, std and weights, got NaN or infinite numbers")
    k = len(means)
    if not bool((std > 0).all()) or weights.shape != (k,) or not bool((weights > 0).all()):
        raise ValueError(
            f"expected positive std and {k} positive weights, got {std.tolist()} and "
            f"{weights.tolist()}"
        )


def _check_labels(labels: Tensor, k: int) -> None:
    """Refuse other than k classes from 0, each with a component (ValueError)."""
    if labels.shape != (k,) or int(labels.min()) < 0:
        raise ValueError(f"expected {k} labels from 0, got {labels.tolist()}")
    if gaps := set(range(int(labels.max()))) - set(labels.tolist()):
        raise ValueError(
            f"expected every class from 0 to have a component, but {sorted(gaps)} have none"
        )
