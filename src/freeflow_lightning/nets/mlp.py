"""A residual MLP for states of any shape: the student and auxiliary of low-dimensional teachers."""

import math

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts, check_numbers, check_shapes
from freeflow_lightning.nets.embeddings import LabelEmbedder, ScalarEmbedder


class MLP(nn.Module):
    """Velocity network on the flattened state: residual SiLU layers, each modulated by the
    embedding of time and class.

    Args:
        sample_shape: shape of one state.
        hidden_size: width.
        depth: number of residual layers.
        num_classes: classes beside the null class; 0 for an unconditional network.
        time_scale: factor on t before its sinusoid.

    >>> MLP((2,), hidden_size=8, depth=1)(torch.zeros(3, 2), torch.zeros(3)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        hidden_size: int = 256,
        depth: int = 4,
        num_classes: int = 0,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_shapes(sample_shape=sample_shape)
        check_counts(1, hidden_size=hidden_size, depth=depth)
        check_counts(0, num_classes=num_classes)
        check_numbers(0, without_low=True, time_scale=time_scale)
        self.architecture = {
            "sample_shape": list(sample_shape),
            "hidden_size": hidden_size,
            "depth": depth,
            "num_classes": num_classes,
            "time_scale": time_scale,
        }
        d = math.prod(sample_shape)
        self.sample_shape = tuple(sample_shape)
        self.num_classes = num_classes
        self.x_embedder = nn.Linear(d, hidden_size)
        self.t_embedder = ScalarEmbedder(hidden_size, scale=time_scale)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size) if num_classes else None
        self.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(depth))
        self.modulations = nn.ModuleList(
            nn.Linear(hidden_size, 2 * hidden_size) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.out = nn.Linear(hidden_size, d)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x [B, *sample_shape], t [B] in [0, 1], labels y [B] or None to [B, *sample_shape]."""
        c = self.t_embedder(t)
        if self.y_embedder is not None:
            c = c + self.y_embedder(y)
        c = nn.functional.silu(c)
        h = self.x_embedder(x.flatten(1))
        for layer, modulation in zip(self.layers, self.modulations, strict=True):
            shift, scale = modulation(c).chunk(2, dim=1)
            h = h + layer(
                nn.functional.silu(torch.addcmul(self.norm(h) + shift, self.norm(h), scale))
            )
        return self.out(nn.functional.silu(h)).view_as(x)
