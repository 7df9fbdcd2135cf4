"""Tensors that have shapes and no data, and modules made of them."""

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from freeflow_lightning.profiling.replace_attribute import replace_attribute
from freeflow_lightning.teachers.base import Network


def without_data(module: Network) -> Network:
    """Return a copy of a module for use inside `estimate`'s `make`: its weights have shapes and no
    data.
    """
    with no_data() as mode, FakeCopyMode(mode):
        return copy.deepcopy(module)


@contextmanager
def no_data() -> Iterator[FakeTensorMode]:
    """Tensors made inside have shapes and dtypes, and no data."""
    # such tensors refuse it; peft moves adapters
    staying = replace_attribute(nn.Module, "to", lambda module, *_, **__: module)
    with warnings.catch_warnings(), staying, FakeTensorMode(allow_non_fake_inputs=True) as mode:
        # torch's own deepcopy does
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield mode


def renew_storages(modules: Iterable[nn.Module], dtype: torch.dtype | None) -> None:
    """Give every parameter and buffer a storage of its own, in the dtype if one is given.

    Views of what deepcopy made of tensors without data have other storages, so a saved view of a
    weight would not be known for one; and such tensors refuse module.to(dtype).
    """
    fresh: dict[int, Tensor] = {}

    def renewed(x: Tensor) -> Tensor:
        kind = dtype if dtype is not None and x.is_floating_point() else x.dtype
        made = torch.empty(x.shape, dtype=kind)
        return fresh.setdefault(
            id(x), nn.Parameter(made, x.requires_grad) if isinstance(x, nn.Parameter) else made
        )

    held: list[Tensor] = []  # ids must not be given again
    for module in modules:
        for part in module.modules():
            for name, x in [
                *part.named_parameters(recurse=False),
                *part.named_buffers(recurse=False),
            ]:
                held.append(x)
                setattr(part, name, renewed(x))
