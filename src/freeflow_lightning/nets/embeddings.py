"""Embeddings of scalars and classes, with the key names of the public DiT and SiT checkpoints."""

import math

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts, check_numbers


def sinusoid(s: Tensor, size: int, max_period: float = 10_000.0) -> Tensor:
    """cos and sin of s at `size / 2` frequencies from 1 down to 1 / max_period, [B] to [B, size]
    (DiT's frequency embedding).

    Computed in float32 or wider whatever the autocast: bfloat16 would turn 0.997 into 0.9961.

    >>> sinusoid(torch.zeros(1), 4)
    tensor([[1., 1., 0., 0.]])
    """
    s = s.to(torch.promote_types(s.dtype, torch.float32))
    exponent = torch.arange(size // 2, dtype=s.dtype, device=s.device) / (size // 2)
    angle = s[:, None] * torch.exp(-math.log(max_period) * exponent)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class ScalarEmbedder(nn.Module):
    """A scalar in [0, 1] or a guidance scale to a vector: sinusoid, Linear, SiLU, Linear (App. B).

    Args:
        hidden_size: width of the output.
        frequencies: width of the sinusoid.
        scale: factor on the scalar before the sinusoid (SiT: 1, DiT and diffusers: 1000).
    """

    def __init__(self, hidden_size: int, frequencies: int = 256, scale: float = 1.0) -> None:
        super().__init__()
        check_counts(1, hidden_size=hidden_size, frequencies=frequencies)
        check_numbers(0, without_low=True, scale=scale)
        if frequencies % 2:
            raise ValueError(
                f"expected an even number of frequencies (cos and sin), got {frequencies}"
            )
        self.frequencies = frequencies
        self.scale = scale
        first, last = nn.Linear(frequencies, hidden_size), nn.Linear(hidden_size, hidden_size)
        for layer in (first, last):
            nn.init.normal_(layer.weight, std=0.02)
        self.mlp = nn.Sequential(first, nn.SiLU(), last)

    def forward(self, s: Tensor) -> Tensor:
        """[B] to [B, hidden_size]."""
        weight: Tensor = self.mlp[0].weight  # type: ignore[assignment]  # of nn.Linear, or of an adapter around one
        return self.mlp(sinusoid(s * self.scale, self.frequencies).to(weight.dtype))

    def zero_output(self) -> "ScalarEmbedder":
        """Let the embedding start at exactly 0. Only the last layer is zero: with both at zero
        neither would ever learn.
        """
        for parameter in self.mlp[2].parameters():
            nn.init.zeros_(parameter)
        return self


class LabelEmbedder(nn.Module):
    """Class labels to vectors; the row after the last class is the null class. It never drops
    labels: recipes do.

    Args:
        num_classes: classes beside the null class.
        hidden_size: width of the vectors.
        null_class: whether there is a null class; a network that was trained without dropped labels
            has none.
    """

    def __init__(self, num_classes: int, hidden_size: int, null_class: bool = True) -> None:
        super().__init__()
        check_counts(1, num_classes=num_classes, hidden_size=hidden_size)
        self.num_classes = num_classes
        rows = num_classes + 1 if null_class else num_classes
        self.embedding_table = nn.Embedding(rows, hidden_size)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        """Labels in 0 .. num_classes [B] to [B, hidden_size]."""
        return self.embedding_table(labels)


def position_table(hidden_size: int, side: int) -> Tensor:
    """Fixed two-dimensional sin-cos position embedding, [1, side * side, hidden_size], as in MAE,
    DiT and SiT.
    """
    if hidden_size % 4:
        raise ValueError(
            f"expected a hidden size divisible by 4 for the position embedding, got {hidden_size}"
        )
    place = torch.arange(side, dtype=torch.float64)
    omega = 10_000.0 ** (-torch.arange(hidden_size // 4, dtype=torch.float64) / (hidden_size // 4))
    angle = place[:, None] * omega
    line = torch.cat([angle.sin(), angle.cos()], dim=1)
    columns, rows = line.repeat(side, 1), line.repeat_interleave(side, 0)
    return torch.cat([columns, rows], dim=1)[None].float()
