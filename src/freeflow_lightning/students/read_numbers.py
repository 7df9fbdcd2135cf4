"""The numbers that a user gives for samples, guidance and delta: one for all, or one for each."""

import math
from typing import Any

import torch
from torch import Tensor

from freeflow_lightning.flow import check_numbers


def read_numbers(name: str, given: float | Tensor, z: Tensor, high: float = math.inf) -> Tensor:
    """Return a number, or one for each of the samples z [B, ...], as float32 [B] on their device.

    Raises:
        ValueError: another count, or what is not finite and from 0 to `high`.

    >>> read_numbers("delta", 0.5, torch.zeros(2, 3), 1)
    tensor([0.5000, 0.5000])
    """
    if not isinstance(given, Tensor):
        said: dict[str, Any] = {name: given}
        check_numbers(0, high, **said)
        return torch.full((len(z),), float(given), device=z.device)
    if given.shape not in ((), (len(z),)) or given.dtype == torch.bool:
        raise ValueError(
            f"expected one {name}, or one for each of the {len(z)} samples, got {given.dtype} of "
            f"shape {list(given.shape)}"
        )
    for extreme in given.aminmax():  # NaN is both
        said = {name: float(extreme)}
        check_numbers(0, high, **said)
    return torch.ones(len(z), device=z.device) * given.to(z.device)
