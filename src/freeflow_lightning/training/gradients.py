"""The gradients of one step, network by network: their norms, and clipping by them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from freeflow_lightning.training.gather_full import gather_full

Gradients = Mapping[str, Sequence[Tensor]]
"""The gradients of each network, by its name."""


def collect_gradients(weights: Mapping[str, Sequence[Tensor]]) -> dict[str, list[Tensor]]:
    """Return the gradients of the weights that have one, by network."""
    return {
        name: [weight.grad for weight in each if weight.grad is not None]
        for name, each in weights.items()
    }


def label_gradients(gradients: Gradients) -> list[str]:
    """Return a name for each gradient tensor: that of its network.

    >>> label_gradients({"student": [torch.ones(1), torch.ones(2)]})
    ['gradient/student', 'gradient/student']
    """
    return [f"gradient/{name}" for name, each in gradients.items() for _ in each]


def measure_tensors(gradients: Gradients) -> Tensor:
    """Return the norm of each gradient tensor, float32 [N], of sharded ones over all processes.

    >>> measure_tensors({"student": [torch.tensor([3.0, 4.0])], "auxiliary": [torch.ones(4)]})
    tensor([5., 2.])
    """
    tensors = [gradient for each in gradients.values() for gradient in each]
    return gather_full(torch.stack(torch._foreach_norm(tensors)))


def norm_by_network(gradients: Gradients, lengths: Tensor) -> dict[str, Tensor]:
    """Return the gradient norm of each network, from the norms [N] of its tensors.

    >>> norm_by_network({"student": [torch.ones(1), torch.ones(1)]}, torch.tensor([3.0, 4.0]))
    {'student': tensor(5.)}
    """
    parts = lengths.split([len(each) for each in gradients.values()])
    return {name: part.norm() for name, part in zip(gradients, parts, strict=True)}


def skips_by_itself(optimizer: Any, gradients: Gradients) -> bool:
    """Return whether the optimizer leaves the weights as they are, on the device, where it is told
    to.
    """
    tensors = [gradient for each in gradients.values() for gradient in each]
    is_sharded = any(isinstance(gradient, DTensor) for gradient in tensors)
    return bool(optimizer.defaults.get("fused")) and not is_sharded
