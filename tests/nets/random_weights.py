"""Networks with weights that are a function of a seed and nowhere 0: as published they answer 0 to everything."""

import torch
from torch import nn

from freeflow_lightning.nets import SiT

TINY = {
    "input_size": 4,
    "patch_size": 2,
    "in_channels": 3,
    "hidden_size": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}


def randomized(net: nn.Module, seed: int = 0) -> nn.Module:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.copy_(0.2 * torch.randn(p.shape, generator=g))
    return net


def tiny_sit(seed: int = 0, **changes) -> SiT:
    return randomized(SiT(**{**TINY, **changes}), seed)


def inputs(
    n: int = 4,
    shape: tuple[int, ...] = (3, 4, 4),
    dtype: torch.dtype = torch.float32,
    classes: int = 5,
):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, *shape, generator=g, dtype=dtype)
    return x, torch.rand(n, generator=g, dtype=dtype), torch.randint(classes + 1, (n,), generator=g)
