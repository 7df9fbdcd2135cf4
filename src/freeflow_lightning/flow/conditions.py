"""Joining and cutting conditions, which are opaque: None, a tensor, or a tuple, list or dict of
them, the batch first.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def apply(function: Callable[..., Any], *trees: Any) -> Any:
    """Apply a function to the tensors that stand at the same place of each tree; None stays None.

    >>> apply(torch.add, {"label": torch.ones(1)}, {"label": torch.ones(1)})
    {'label': tensor([2.])}
    """
    first = trees[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return function(*trees)
    if isinstance(first, dict):
        return {key: apply(function, *(tree[key] for tree in trees)) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(apply(function, *parts) for parts in zip(*trees, strict=True))
    raise ValueError(
        f"expected a condition made of tensors, tuples, lists, dicts and None, got "
        f"{type(first).__name__}"
    )


def join(*conditions: Any) -> Any:
    """Concatenate conditions along the batch.

    >>> join(torch.tensor([1]), torch.tensor([2]))
    tensor([1, 2])
    """
    return apply(lambda *tensors: torch.cat(tensors), *conditions)


def take(condition: Any, rows: slice | Tensor | None) -> Any:
    """The given rows of a condition; all of it for None."""
    return condition if rows is None else apply(lambda tensor: tensor[rows], condition)
