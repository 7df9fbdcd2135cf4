"""SiT, the scalable interpolant transformer, with the public checkpoints' key names."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts, check_numbers
from freeflow_lightning.nets.embeddings import LabelEmbedder, ScalarEmbedder, position_table
from freeflow_lightning.nets.sit_layers import Attention, Mlp, PatchEmbed

SIZES: dict[str, dict[str, int]] = {
    "S": {"depth": 12, "hidden_size": 384, "num_heads": 6},
    "B": {"depth": 12, "hidden_size": 768, "num_heads": 12},
    "L": {"depth": 24, "hidden_size": 1024, "num_heads": 16},
    "XL": {"depth": 28, "hidden_size": 1152, "num_heads": 16},
}
"""The published sizes; use as SiT(input_size=32, **SIZES["XL"])."""

QKNorm = Literal["none", "layer", "rms"]
QK_NORMS: dict[str, Callable[..., nn.Module]] = {
    "layer": partial(nn.LayerNorm, eps=1e-5),
    "rms": partial(nn.RMSNorm, eps=1e-6),
}
"""Norms of queries and keys: that of REPA's --qk-norm (timm's default before 1.0.16), and that of
DMF.
"""


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm: x (1 + scale) + shift, x [B, L, D], shift and scale [B, D]."""
    return torch.addcmul(x + shift[:, None], x, scale[:, None])


class SiTBlock(nn.Module):
    """Attention and MLP, each with adaptive shift, scale and gate from the conditioning vector
    (adaLN-Zero).
    """

    def __init__(
        self, hidden_size: int, num_heads: int, mlp_ratio: float, qk_norm: QKNorm = "none"
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.attn = Attention(hidden_size, num_heads, QK_NORMS.get(qk_norm))
        self.norm2 = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(hidden_size, int(hidden_size * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(
            6, dim=1
        )
        x = x + gate_a[:, None] * self.attn(modulate(self.norm1(x), shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(modulate(self.norm2(x), shift_m, scale_m))


class FinalLayer(nn.Module):
    """Adaptive layer norm and the projection to patches."""

    def __init__(self, hidden_size: int, patch_size: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(hidden_size, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(hidden_size, patch_size * patch_size * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class SiT(nn.Module):
    """SiT's network in its own convention: raw time in [0, 1] to the embedder, tokens of square
    patches, adaLN-Zero blocks.

    The defaults are SiT-XL/2 at 256 without learned variance, 675,111,184 parameters.

    Args:
        input_size: height and width of the (latent) image; 32 at 256, 64 at 512.
        patch_size: height and width of a patch.
        in_channels: channels in and out.
        hidden_size: width of the tokens.
        depth: number of blocks.
        num_heads: attention heads.
        mlp_ratio: width of the MLP over the tokens'.
        num_classes: classes beside the null class; 0 for an unconditional network.
        time_scale: factor on t before its sinusoid (1 in the public checkpoints).
        qk_norm: norm of queries and keys: "layer" (REPA with --qk-norm), "rms" (DMF) or "none".
        null_class: whether the table of classes has a row for the null class, which guidance needs.
    """

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        time_scale: float = 1.0,
        qk_norm: QKNorm = "none",
        null_class: bool = True,
    ) -> None:
        super().__init__()
        check_counts(1, input_size=input_size, patch_size=patch_size, in_channels=in_channels)
        check_counts(1, hidden_size=hidden_size, depth=depth, num_heads=num_heads)
        check_counts(0, num_classes=num_classes)
        check_numbers(0, without_low=True, mlp_ratio=mlp_ratio, time_scale=time_scale)
        self.architecture: dict[str, Any] = {
            "input_size": input_size,
            "patch_size": patch_size,
            "in_channels": in_channels,
            "hidden_size": hidden_size,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_ratio": mlp_ratio,
            "num_classes": num_classes,
            "time_scale": time_scale,
            "qk_norm": qk_norm,
            "null_class": null_class,
        }
        if input_size % patch_size or hidden_size % num_heads:
            raise ValueError(
                f"expected patch_size to divide input_size and num_heads to divide hidden_size, "
                f"got {patch_size}, {input_size} and {num_heads}, {hidden_size}"
            )
        if qk_norm not in ("none", *QK_NORMS):
            raise ValueError(f"expected qk_norm 'none', 'layer' or 'rms', got {qk_norm!r}")
        self.sample_shape = (in_channels, input_size, input_size)
        self.patch_size = patch_size
        self.num_classes = num_classes
        self.null_class = null_class
        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = ScalarEmbedder(hidden_size, scale=time_scale)
        self.y_embedder = None
        if num_classes:
            self.y_embedder = LabelEmbedder(num_classes, hidden_size, null_class)
        self.pos_embed = nn.Parameter(
            position_table(hidden_size, input_size // patch_size), requires_grad=False
        )
        self.blocks = nn.ModuleList(
            SiTBlock(hidden_size, num_heads, mlp_ratio, qk_norm) for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels)
        self._initialize()

    def _initialize(self) -> None:
        """Xavier for linear layers, zero for the modulations and the output (adaLN-Zero), as in DiT
        and SiT.
        """
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        patches = self.x_embedder.proj
        assert patches.bias is not None
        nn.init.xavier_uniform_(patches.weight.view(patches.weight.shape[0], -1))
        nn.init.zeros_(patches.bias)
        modulations = [
            m.adaLN_modulation for m in self.modules() if isinstance(m, SiTBlock | FinalLayer)
        ]
        for layer in [*modulations, self.final_layer.linear]:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], t [B] in [0, 1], labels y [B] in 0 .. num_classes (the last is null) to
        [B, C, H, W].

        Raises:
            ValueError: pictures of another shape than `sample_shape`.
        """
        if x.shape[1:] != self.sample_shape:
            raise ValueError(
                f"expected pictures of shape {list(self.sample_shape)}, got {list(x.shape[1:])}"
            )
        c = self.t_embedder(t)
        if self.y_embedder is not None:
            c = c + self.y_embedder(y)
        x = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            x = block(x, c)
        return self.unpatchify(self.final_layer(x, c))

    def without_classes(self) -> "SiT":
        """Return the network of the null class alone, which takes no labels, as a copy.

        The null class's vector becomes part of the time embedding's last bias.

        Raises:
            ValueError: a network that has no null class.
        """
        if self.y_embedder is None or not self.null_class:
            raise ValueError(
                "these weights have no null class: there is nothing to ask without one"
            )
        weights = self.state_dict()
        table = weights.pop("y_embedder.embedding_table.weight")
        bias = weights["t_embedder.mlp.2.bias"]
        weights["t_embedder.mlp.2.bias"] = bias + table[-1]
        network = SiT(**self.architecture | {"num_classes": 0}).to(table)
        network.load_state_dict(weights)
        return network

    def unpatchify(self, x: Tensor) -> Tensor:
        """Tokens [B, L, p * p * C], the channel fastest, to the image [B, C, H, W]."""
        channels, side, _ = self.sample_shape
        p, grid = self.patch_size, side // self.patch_size
        return (
            x.view(-1, grid, grid, p, p, channels)
            .permute(0, 5, 1, 3, 2, 4)
            .reshape(-1, channels, side, side)
        )
