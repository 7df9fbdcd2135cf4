"""Moving averages that have been added or removed since the checkpoint that a run goes on from."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn


@runtime_checkable
class Averaged(Protocol):
    """A module that holds moving averages of the network that it trains: a Recipe."""

    @property
    def averages(self) -> nn.ModuleDict:
        """The averages by name."""

    @property
    def trained(self) -> nn.Module:
        """The network that is averaged."""


def match_averages(module: Averaged, weights: dict[str, Tensor]) -> None:
    """Edit a checkpoint's weights until they hold the module's averages, and say what was done.

    An average that the checkpoint does not hold starts from the trained network's weights.
    """
    saved = saved_averages(weights)
    for name in _tell_removed(module, saved):
        for key in [key for key in weights if key.startswith(_prefix(name))]:
            del weights[key]
    trained = f"{_path_of_trained(module)}."
    fresh = {key: value for key, value in weights.items() if key.startswith(trained)}
    for name in _tell_added(module, saved):
        for key, value in fresh.items():
            weights[_prefix(name) + key.removeprefix(trained)] = value


@contextmanager
def only_saved_averages(module: Averaged, keys: Collection[str]) -> Iterator[set[str]]:
    """Inside, the module has only those of its averages that a checkpoint with these keys holds.

    Yields the keys without those of averages that the module does not have. At the end the other
    averages are back, with the trained network's weights: for checkpoints that are read straight
    into the module, share by share.
    """
    saved = saved_averages(keys)
    removed = tuple(_prefix(name) for name in _tell_removed(module, saved))
    added = {name: module.averages[name] for name in _tell_added(module, saved)}
    order = list(module.averages)
    for name in added:
        del module.averages[name]
    yield {key for key in keys if not key.startswith(removed)}
    everything = dict(module.averages) | added
    module.averages.clear()
    module.averages.update({name: everything[name] for name in order})
    for average in added.values():
        copy_weights(module.trained, average)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy weights and buffers between two networks of the same shape, whatever their precision."""
    fresh = [*source.parameters(), *source.buffers()]
    copies = [*target.parameters(), *target.buffers()]
    for copy, value in zip(copies, fresh, strict=True):
        copy.copy_(value)


def saved_averages(keys: Collection[str]) -> set[str]:
    """Return the names of the averages in a checkpoint, given the keys of its weights.

    >>> saved_averages(["student.weight", "averages.ema_0_9.weight"])
    {'ema_0_9'}
    """
    return {key.split(".")[1] for key in keys if key.startswith("averages.")}


def _prefix(name: str) -> str:
    return f"averages.{name}."


def _path_of_trained(module: Averaged) -> str:
    assert isinstance(module, nn.Module)
    return next(path for path, part in module.named_modules() if part is module.trained)


def _tell_added(module: Averaged, saved: set[str]) -> list[str]:
    added = [name for name in module.averages if name not in saved]
    for name in added:
        rank_zero_info(f"{name} is not in the checkpoint: it starts from the current weights")
    return added


def _tell_removed(module: Averaged, saved: set[str]) -> list[str]:
    removed = sorted(saved - set(module.averages))
    for name in removed:
        rank_zero_info(f"{name} of the checkpoint is no average of this run: it is left out")
    return removed
