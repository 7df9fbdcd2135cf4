"""The layers inside a SiT, with timm's key names: its blocks would do, but timm takes two seconds to
import (torchvision's models come along), and every verb that opens a SiT would wait for them.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Self-attention of tokens [B, L, D] by several heads.

    Args:
        width: D, a multiple of `num_heads`.
        num_heads: how many.
        norm: makes the norm of each head's queries and keys from their width; none if not given.
    """

    def __init__(
        self, width: int, num_heads: int, norm: Callable[[int], nn.Module] | None = None
    ) -> None:
        super().__init__()
        head_width = width // num_heads
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.Identity() if norm is None else norm(head_width)
        self.k_norm = nn.Identity() if norm is None else norm(head_width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        by_head = self.qkv(x).unflatten(2, (3, self.num_heads, -1))
        q, k, v = by_head.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with GELU, by its tanh formula, between them."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class PatchEmbed(nn.Module):
    """Square patches of pictures [B, C, H, W] as tokens [B, L, D], row by row."""

    def __init__(self, patch_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)
