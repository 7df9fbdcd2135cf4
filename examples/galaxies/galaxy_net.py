"""galaxygrad's score network (an MLP mixer of JAX and equinox) in plain PyTorch, and the reader of its files.

Nothing of freeflow_lightning in it. The published .eqx files are rows of .npy arrays: no JAX is needed to read them.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

END_TIME = 10.0
"""Of the variance-preserving SDE; its beta is 1, so that the integral of beta is the time."""


class MixerBlock(nn.Module):
    """Mixes the patches of each channel, then the channels of each patch: [B, hidden, patches]."""

    def __init__(self, patches: int, hidden: int, mix_patch: int, mix_hidden: int) -> None:
        super().__init__()
        self.patch_mixer = two_layers(patches, mix_patch)
        self.hidden_mixer = two_layers(hidden, mix_hidden)
        self.norm1 = nn.LayerNorm((hidden, patches))
        self.norm2 = nn.LayerNorm((patches, hidden))

    def forward(self, y: Tensor) -> Tensor:
        y = y + self.patch_mixer(self.norm1(y))
        y = y.transpose(1, 2)
        y = y + self.hidden_mixer(self.norm2(y))
        return y.transpose(1, 2)


def two_layers(width: int, hidden: int) -> nn.Sequential:
    """A perceptron of one hidden layer, as wide at its end as at its start."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


class ScoreNet(nn.Module):
    """grad log p(y) at a time tau in [0, 10] of y = exp(-tau / 2) data + sqrt(1 - exp(-tau)) noise.

    Args:
        size: side of the pictures.
        patch: side of a patch, a divisor of the size.
        hidden: channels.
        mix_patch: hidden layer of the patch mixers.
        mix_hidden: hidden layer of the channel mixers.
        blocks: of the mixer.
    """

    def __init__(
        self, size: int, patch: int, hidden: int, mix_patch: int, mix_hidden: int, blocks: int
    ) -> None:
        super().__init__()
        patches = (size // patch) ** 2
        self.conv_in = nn.Conv2d(2, hidden, patch, stride=patch)
        self.conv_out = nn.ConvTranspose2d(hidden, 1, patch, stride=patch)
        self.blocks = nn.ModuleList(
            MixerBlock(patches, hidden, mix_patch, mix_hidden) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm((hidden, patches))

    @classmethod
    def of_state(cls, state: dict[str, Tensor]) -> "ScoreNet":
        """The network that a state dict is of."""
        hidden, _, patch, _ = state["conv_in.weight"].shape
        patches = state["norm.weight"].shape[1]
        mix_patch, mix_hidden = (
            len(state[f"blocks.0.{name}.0.weight"]) for name in ("patch_mixer", "hidden_mixer")
        )
        blocks = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        net = cls(math.isqrt(patches) * patch, patch, hidden, mix_patch, mix_hidden, blocks)
        net.load_state_dict(state)
        return net

    @property
    def size(self) -> int:
        """Side of the pictures."""
        patches = self.norm.weight.shape[1]
        return math.isqrt(patches) * self.conv_in.kernel_size[0]

    def enter(self, y: Tensor, tau: Tensor) -> Tensor:
        """The patches of pictures [B, 1, S, S], with the time as a second channel: [B, hidden, S / patch, S / patch]."""
        clock = (tau / END_TIME)[:, None, None, None].expand_as(y)
        return self.conv_in(torch.cat([y, clock.to(y.dtype)], dim=1))

    def leave(self, h: Tensor) -> Tensor:
        """The score, [B, 1, S, S], of what `enter` made."""
        y = h.flatten(2)
        for block in self.blocks:
            y = block(y)
        return self.conv_out(self.norm(y).view_as(h))

    def forward(self, y: Tensor, tau: Tensor) -> Tensor:
        return self.leave(self.enter(y, tau))


def read_leaves(content: bytes) -> list[np.ndarray]:
    """The arrays of an .eqx file, in their order. Nothing in it is executed.

    Raises:
        ValueError: something else than a row of .npy arrays.
    """
    file = io.BytesIO(content)
    leaves = []
    while file.tell() < len(content):
        leaves.append(np.load(file, allow_pickle=False))
    return leaves


def state_of(leaves: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """The state dict that the leaves are, in the order of equinox's fields, the end time last.

    Raises:
        ValueError: another number of leaves.
    """
    blocks, rest = divmod(len(leaves) - 7, 12)
    if rest or blocks < 1:
        raise ValueError(
            f"expected 7 arrays and 12 for each block of a ScoreNet, got {len(leaves)}"
        )
    layers = [
        f"blocks.{k}.{name}"
        for k in range(blocks)
        for name in ("patch_mixer.0", "patch_mixer.2", "hidden_mixer.0", "hidden_mixer.2", "norm1", "norm2")
    ]  # fmt: skip
    names = [
        f"{layer}.{part}"
        for layer in ("conv_in", "conv_out", *layers, "norm")
        for part in ("weight", "bias")
    ]
    *arrays, end_time = leaves
    if float(end_time) != END_TIME:
        raise ValueError(f"expected a model of times up to {END_TIME:g}, got {float(end_time):g}")
    state = {
        name: torch.from_numpy(np.array(array, np.float32))
        for name, array in zip(names, arrays, strict=True)
    }
    # equinox correlates the spread input with (out, in, k, k); torch's is the transpose of a convolution
    state["conv_out.weight"] = state["conv_out.weight"].flip(2, 3).transpose(0, 1).contiguous()
    for conv in ("conv_in", "conv_out"):
        state[f"{conv}.bias"] = state[f"{conv}.bias"].flatten()
    return state


def read_eqx(path: Path) -> dict[str, Tensor]:
    """The state dict of an .eqx file."""
    return state_of(read_leaves(path.read_bytes()))
