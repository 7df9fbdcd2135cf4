"""The blocks that a deep network is a stack of: what is sharded, recomputed and compiled one by
one.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the elements with parameters of the outermost nn.ModuleLists and nn.ModuleDicts; none
    for a network without such.

    >>> [type(block).__name__ for block in blocks(nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])}))]
    ['Linear']
    """
    lists = isinstance(network, nn.ModuleList | nn.ModuleDict)
    members: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict) or not lists:
            members += blocks(child)
        elif next(child.parameters(), None) is not None:
            members.append(child)
    return members


def recompute(network: nn.Module, time_modules: Sequence[nn.Module] = ()) -> None:
    """Let the backward pass compute each block's activations again instead of keeping them
    (activation checkpointing).

    In place; the keys of the state dict stay, and a copy of the network has the same. Gradients are
    equal.

    Args:
        network: the backbone.
        time_modules: modules that a ScalarConditioned hooks: they must be outside of the blocks.

    Raises:
        ValueError: a network without blocks, or one whose blocks embed the time themselves.
    """
    members = blocks(network)
    if not members:
        raise ValueError(
            f"{type(network).__name__} has no nn.ModuleList of blocks to recompute: leave "
            f"activation_checkpointing out"
        )
    if any(module in time_modules for block in members for module in block.modules()):
        raise ValueError(
            f"the blocks of {type(network).__name__} embed the time themselves: leave "
            f"activation_checkpointing out"
        )
    for block in members:
        if "forward" not in vars(block):
            block.forward = functools.partial(_recompute_call, block, block.forward)


def compile_blocks(network: nn.Module, backend: str) -> None:
    """torch.compile each block in place, or the network where it has none: the keys of the state
    dict stay.

    Blocks of one class share their graphs, so that a deep network compiles as fast as one block.
    """
    for module in blocks(network) or [network]:
        module.compile(backend=backend)


def _recompute_call(
    block: nn.Module, forward: Callable[..., Any], *inputs: Any, **named: Any
) -> Any:
    """forward(*inputs, **named), recomputed with the adapters that were on in the forward pass."""
    layers = [module for module in block.modules() if "_disable_adapters" in vars(module)]  # peft's
    then = _switches(layers)

    def run(*again: Any, **named_again: Any) -> Any:
        now = _switches(layers)
        _switch(layers, then)
        try:
            return forward(*again, **named_again)
        finally:
            _switch(layers, now)

    return checkpoint(run, *inputs, use_reentrant=False, **named)


def _switches(layers: list[Any]) -> list[tuple[Any, bool]]:
    return [(layer._active_adapter, layer._disable_adapters) for layer in layers]


def _switch(layers: list[Any], states: list[tuple[Any, bool]]) -> None:
    for layer, (active, disabled) in zip(layers, states, strict=True):
        layer._active_adapter, layer._disable_adapters = active, disabled
