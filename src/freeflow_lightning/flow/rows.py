"""Skipping the rows of a batch in which an evaluation has no effect."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from freeflow_lightning.flow.conditions import take


def spread(some: Tensor, rows: Tensor | None, elsewhere: Tensor) -> Tensor:
    """Put `some` [K, ...] into the rows [K] of `elsewhere` [B, ...]; all of it if rows is None.

    >>> import torch
    >>> spread(torch.ones(1), torch.tensor([1]), torch.zeros(3))
    tensor([0., 1., 0.])
    """
    return some if rows is None else elsewhere.index_copy(0, rows, some)


def on_rows(
    f: Callable[..., Tensor], rows: Tensor | None, elsewhere: Tensor | None = None
) -> Callable[..., Tensor]:
    """Return f as a function that evaluates the given rows of its arguments alone.

    Args:
        f: of tensors and trees of tensors, the batch first, to [B, ...].
        rows: rows to evaluate, int64 [K]; None for all, which is f itself.
        elsewhere: what stands in the other rows, [B, ...]; 0 if not given.

    >>> import torch
    >>> on_rows(lambda x: 2 * x, torch.tensor([1]))(torch.tensor([3.0, 4.0]))
    tensor([0., 8.])
    """
    if rows is None:
        return f

    def evaluate(x: Tensor, *others: Any) -> Tensor:
        some = f(*(take(argument, rows) for argument in (x, *others)))
        rest = some.new_zeros(len(x), *some.shape[1:]) if elsewhere is None else elsewhere
        return spread(some, rows, rest)

    return evaluate
