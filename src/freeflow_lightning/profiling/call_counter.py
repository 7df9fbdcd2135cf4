"""CallCounter: what training evaluates, counted call by call in forward passes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from freeflow_lightning.profiling.network_calls import has_dual, intercept_calls, part_of
from freeflow_lightning.profiling.rounds import Rows, add_rows

FORWARD_EQUIVALENTS = {
    "forward": 1,
    "with gradient": 3,
    "derivative": 2,
    "derivative with gradient": 6,
}
"""Forward passes that one row of a call is worth, by its kind.

A backward pass is two forward passes, a forward-mode derivative makes two of one; nothing else
counts.
"""


class CallCounter:
    """Counts the rows of every network call while it is on, without keeping anything of them.

    >>> net = nn.Linear(2, 2)
    >>> counter = CallCounter()
    >>> with counter.watch({"student": net}):
    ...     counter.is_on = True
    ...     _ = net(torch.ones(3, 2))
    ...     with torch.no_grad():
    ...         _ = net(torch.ones(4, 2))
    >>> counter.rows, counter.evaluations
    ({'student': {'with gradient': 3, 'forward': 4}}, {'student': 13})
    """

    def __init__(self) -> None:
        self.is_on = False
        self.rows: Rows = {}
        """Samples evaluated so far, by network and kind; a guided velocity has two for one, and a
        part of a split network counts as its share.
        """

    @property
    def evaluations(self) -> dict[str, float]:
        """What the rows are worth in forward passes of one sample, by network."""
        return {
            name: sum(FORWARD_EQUIVALENTS[kind] * n for kind, n in kinds.items())
            for name, kinds in self.rows.items()
        }

    @property
    def total(self) -> float:
        """Forward passes of all networks together."""
        return sum(self.evaluations.values())

    @contextmanager
    def watch(self, networks: Mapping[str, nn.Module]) -> Iterator[None]:
        """Count the calls of these networks, and of parts of them that are called alone."""

        def count(
            name: str,
            module: nn.Module,
            call: Callable[..., Any],
            arguments: tuple,
            keywords: dict[str, Any],
        ) -> Any:
            if self.is_on:
                kind = kind_of_call(module, arguments, keywords)
                rows = len(arguments[0]) * part_of(networks[name], module).share
                add_rows(self.rows, name, kind, rows)
            return call(*arguments, **keywords)

        with intercept_calls(networks, count):
            yield


def kind_of_call(module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> str:
    """Return what a call of a module is worth: a key of `FORWARD_EQUIVALENTS`."""
    is_derivative = has_dual((arguments, keywords))
    if not (torch.is_grad_enabled() and _leads_to_gradient(module, arguments, keywords)):
        return "derivative" if is_derivative else "forward"
    return "derivative with gradient" if is_derivative else "with gradient"


def _leads_to_gradient(module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> bool:
    """Return whether a weight or an argument of the call wants a gradient."""
    if any(weight.requires_grad for weight in module.parameters()):
        return True
    given = tree_iter((arguments, keywords))
    return any(isinstance(x, Tensor) and x.requires_grad for x in given)
