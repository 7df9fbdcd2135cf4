"""Bytes: of storages, of what autograd keeps, and of all that is alive as operations run."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from freeflow_lightning.profiling.operations import OPERATIONS


def tensors_of(*modules: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers."""
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


class KeptForBackward:
    """Counts the storages that autograd saves, except the given tensors'. Each counts once, however
    often it is saved.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._weights = {storage_key(tensor) for tensor in weights}
        self._storages: dict[int, torch.UntypedStorage] = {}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The context of the forward pass."""
        with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
            yield

    def _keep(self, tensor: Tensor) -> Tensor:
        if storage_key(tensor) not in self._weights:
            # held: its address must not be given to another
            self._storages[storage_key(tensor)] = tensor.untyped_storage()
        return tensor

    def release(self) -> int:
        """Return the bytes; the storages may go from now on."""
        size = sum(storage.nbytes() for storage in self._storages.values())
        self._storages.clear()
        return size


class LiveMemory(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end; counts bytes alive, their
    peak, and FLOPs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.flops = 0
        self._seen: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # what is older than the count is not counted, nor are views of it
        self._meet((args, kwargs), born=False)
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in OPERATIONS:
            self.flops += OPERATIONS[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        self._meet(result, born=True)
        return result

    def _meet(self, tree: Any, *, born: bool) -> None:
        for tensor in tree_iter(tree):
            if (
                isinstance(tensor, Tensor)
                and id(storage := tensor.untyped_storage()) not in self._seen
            ):
                self._follow(storage, storage.nbytes() if born else 0)

    def _follow(self, storage: torch.UntypedStorage, size: int) -> None:
        name = id(storage)
        self.alive += size
        self.peak = max(self.peak, self.alive)

        def gone(_: Any) -> None:
            self.alive -= size
            del self._seen[name]

        self._seen[name] = weakref.ref(storage, gone)

    def restart(self) -> None:
        """Forget the peak."""
        self.peak = self.alive


def count_bytes(tensors: Iterable[Tensor]) -> int:
    """Of the tensors' storages, each once."""
    return sum(
        {storage_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values()
    )


def storage_key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
