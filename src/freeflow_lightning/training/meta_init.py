"""Networks that are built without data, and what their weights are then copies of."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DRAWN = (
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_uniform_,
    Tensor.normal_,
    Tensor.uniform_,
)
"""What gives weights their first values."""


class copies_without_data(TorchFunctionMode):  # noqa: N801 (a context)
    """Inside, copies of tensors have a shape and no data: copy.deepcopy of a network takes no
    memory.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.clone:
            return torch.empty_like(args[0], device="meta")
        if func is Tensor.__deepcopy__:
            copy = torch.empty_like(args[0], device="meta")
            return args[1].setdefault(id(args[0]), copy)
        return func(*args, **(kwargs or {}))


class shapes_alone(TorchFunctionMode):  # noqa: N801 (a context)
    """Inside, weights on the meta device are not drawn, and tables of numbers are made on the CPU:
    torch would do both by its compiler, which takes seconds to import.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DRAWN:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func is torch.arange:
            return func(*args, **kwargs | {"device": "cpu"})
        return func(*args, **kwargs)


def meta_sources(network: nn.Module, original: nn.Module) -> dict[Tensor, Tensor]:
    """Return the weights and buffers of a network that have no data, and those of the original with
    the same names.

    Raises:
        ValueError: a weight that the original does not have.
    """
    held = dict([*original.named_parameters(), *original.named_buffers()])
    found = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_meta and (name not in held or held[name].shape != tensor.shape):
            raise ValueError(
                f"meta_init: the teacher's backbone has no {name} of shape {list(tensor.shape)}; "
                f"leave it out"
            )
        if tensor.is_meta:
            found[tensor] = held[name].detach()
    return found


def materialize(module: nn.Module, missing: dict[Tensor, Tensor]) -> None:
    """Give the module's weights and buffers that have no data a copy of what they stand for."""
    for part in module.modules():
        for name, tensor in part.named_parameters(recurse=False):
            if tensor in missing:
                part.register_parameter(
                    name,
                    nn.Parameter(missing[tensor].to(tensor.dtype, copy=True), tensor.requires_grad),
                )
        for name, buffer in part.named_buffers(recurse=False):
            if buffer in missing:
                setattr(part, name, missing[buffer].to(buffer.dtype, copy=True))
