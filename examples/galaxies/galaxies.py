"""galaxygrad's score models of galaxies (arXiv 2401.07313) as a teacher, and what a galaxy looks like in 76 numbers.

freeflow inspect --config galaxies.yaml   is its velocity sound?
freeflow fit --config galaxies.yaml       distil it
"""

from typing import Any

import torch
from galaxy_net import ScoreNet
from safetensors.torch import load_file
from torch import Tensor, nn

from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.teachers import PathTeacher, VariancePreservingPath


class ClockedScore(nn.Module):
    """The score network, with a place where the student can be told how far to jump.

    The network takes its time as a channel, and has no module that embeds it. The one here is 0 at
    first: the teacher's score does not change, and the student's new inputs are added to its output.
    """

    def __init__(self, net: ScoreNet) -> None:
        super().__init__()
        self.net = net
        self.time_embedding = nn.Linear(1, net.conv_in.out_channels)
        nn.init.zeros_(self.time_embedding.weight)
        nn.init.zeros_(self.time_embedding.bias)

    def forward(self, y: Tensor, tau: Tensor, condition: Any) -> Tensor:
        shift = self.time_embedding(tau[:, None].to(y.dtype))[..., None, None]
        return self.net.leave(self.net.enter(y, tau) + shift)


class GalaxyTeacher(PathTeacher):
    """What the config names.

    Args:
        checkpoint: what convert.py wrote.
        tau_max: last time that the network is asked at; its authors' is 10.
    """

    def __init__(self, checkpoint: str, tau_max: float = 10.0) -> None:
        net = ScoreNet.of_state(load_file(checkpoint))
        path = VariancePreservingPath(tau_max=tau_max)
        super().__init__(ClockedScore(net), path, "score", (1, net.size, net.size))

    def decode(self, x: Tensor) -> Tensor:
        """Pictures in [-1, 1]: light is stretched by asinh, as astronomers show it."""
        return (torch.asinh(4 * x.clamp(min=0)) / 4).clamp(0, 1) * 2 - 1


class GalaxyFeatures(FeatureNetwork):
    """8 x 8 pooled pixels, and twelve numbers of the whole: rings, size, shape, peak."""

    num_features = 76

    def forward(self, samples: Tensor) -> Tensor:
        """uint8 pictures [B, 1, S, S] to features [B, 76]."""
        x = samples.float() / 255
        pooled = nn.functional.adaptive_avg_pool2d(x, 8).flatten(1)
        return torch.cat([pooled, self.light(x), self.ranks(x)], dim=1)

    def light(self, x: Tensor) -> Tensor:
        """The share of the light in five rings, its size, and two numbers of its shape: [B, 8]."""
        side = x.shape[-1]
        r = torch.arange(side, device=x.device) - (side - 1) / 2
        square = r[:, None] ** 2 + r**2
        flux = x.sum((1, 2, 3)) + 1e-3
        rings = [(x * (square < k**2)).sum((1, 2, 3)) / flux for k in (1.5, 3, 5, 8, 12)]
        size = ((x[:, 0] * square).sum((1, 2)) / flux).sqrt() / side
        long = (x[:, 0] * (r[:, None] ** 2 - r**2)).sum((1, 2)) / flux / side
        slanted = (x[:, 0] * (r[:, None] * r)).sum((1, 2)) / flux / side
        return torch.stack([*rings, size, long, slanted], dim=1)

    def ranks(self, x: Tensor) -> Tensor:
        """How unequal the light is (Gini), how unlike itself half turned, its peak and its mean: [B, 4]."""
        ordered = x.flatten(1).sort(1).values
        n = ordered.shape[1]
        flux = x.sum((1, 2, 3)) + 1e-3
        order = 2 * torch.arange(1, n + 1, device=x.device) - n - 1
        gini = (order * ordered).sum(1) / (n * flux)
        turned = (x - x.flip(2, 3)).abs().sum((1, 2, 3)) / flux
        return torch.stack([gini, turned, ordered[:, -1], (flux / n).sqrt()], dim=1)
