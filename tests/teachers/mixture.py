"""A Gaussian mixture written out a second time: posterior means of data and noise for any path x = a data + b noise."""

import torch
from torch import Tensor

MEANS = torch.tensor([[-1.0, 0.5], [1.5, 1.0], [0.3, -2.0]], dtype=torch.float64)
STD = torch.tensor([0.4, 0.7, 0.2], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 1])
NULL = 2


def log_density(x: Tensor, a: Tensor, b: Tensor, label: Tensor) -> Tensor:
    """log p(x | label) per component, [B, K]; -inf where the component is not the label's."""
    a, b = a[:, None], b[:, None]
    v = a**2 * STD**2 + b**2
    square = (x[:, None] - a[..., None] * MEANS).square().sum(-1)
    member = (label[:, None] == LABELS) | (label[:, None] == NULL)
    weights = torch.where(member, WEIGHTS, 0.0)
    return (weights / weights.sum(1, keepdim=True)).log() - square / (2 * v) - v.log()


def posterior(x: Tensor, a: Tensor, b: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """E[data | x] and E[noise | x]."""
    p = log_density(x, a, b, label).softmax(1)[..., None]
    a, b = a[:, None, None], b[:, None, None]
    offset = x[:, None] - a * MEANS
    v = a**2 * STD[:, None] ** 2 + b**2
    data = MEANS + a * STD[:, None] ** 2 / v * offset
    return (p * data).sum(1), (p * b / v * offset).sum(1)


def batch(n: int = 64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """States, times in (0, 1) and labels, the null class among them."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    return (
        x,
        0.01 + 0.98 * torch.rand(n, generator=g, dtype=torch.float64),
        torch.randint(3, (n,), generator=g),
    )
