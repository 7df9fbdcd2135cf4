"""The first number of a run that is not finite, found without the device ever waiting for the
host.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Broken(NamedTuple):
    """The first optimizer step with numbers that are not finite, and what they belong to."""

    step: int
    names: tuple[str, ...]


class NonFiniteError(RuntimeError):
    """A loss or gradient is not finite: training has stopped before the number could spread.

    Args:
        message: what to say.
        step: the optimizer step that it was found in, from which on no weight has changed.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class _Report(NamedTuple):
    """Which terms of a step are not finite: a copy on its way to the host, and whether it is
    there.
    """

    step: int
    names: tuple[str, ...]
    flags: Tensor
    arrived: Callable[[], bool]
    wait: Callable[[], object]


class FiniteWatch:
    """Flags are computed where the numbers are, and read on the host once they are there: at once
    on a CPU, a little later on an accelerator, which meanwhile goes on. `broken` keeps the
    optimizer from any update in between.

    >>> watch = FiniteWatch()
    >>> watch.add(7, ["fine", "bad"], torch.tensor([1.0, torch.inf]))
    >>> watch.broken, watch.look()
    (tensor(1.), Broken(step=7, names=('bad',)))
    """

    def __init__(self) -> None:
        self._flag: Tensor | None = None
        self._reports: deque[_Report] = deque()

    def add(self, step: int, names: Sequence[str], values: Tensor) -> None:
        """Flag the values [N] of an optimizer step, each the largest or the norm of what its name
        says; names may repeat.
        """
        bad = ~torch.isfinite(values.detach())
        broken = bad.any()
        self._flag = broken if self._flag is None else self._flag | broken
        self._reports.append(_Report(step, tuple(names), *copy_to_host(bad)))

    @property
    def broken(self) -> Tensor | None:
        """For an optimizer's found_inf: 1 from the first number on that is not finite, float32 [] on the device, as long as
        the host has not seen all; None when it has."""
        return self._flag.float() if self._reports and self._flag is not None else None

    def look(self, *, wait: bool = False) -> Broken | None:
        """Return the first broken step as far as the host knows by now; with `wait`, as far as the
        device has come.
        """
        while self._reports and (wait or self._reports[0].arrived()):
            report = self._reports.popleft()
            report.wait()
            names = dict.fromkeys(
                name for name, bad in zip(report.names, report.flags.tolist(), strict=True) if bad
            )
            if names:
                return Broken(report.step, tuple(names))
        return None


def max_magnitudes(terms: Sequence[Tensor]) -> Tensor:
    """Return the largest magnitude in each tensor, float32 [N]; NaN and infinity where there is
    one.

    >>> max_magnitudes([torch.tensor([1.0, -3.0]), torch.tensor(torch.nan)])
    tensor([3., nan])
    """
    return torch.stack(
        [torch.linalg.vector_norm(term.detach().float(), torch.inf) for term in terms]
    )


def copy_to_host(x: Tensor) -> tuple[Tensor, Callable[[], bool], Callable[[], object]]:
    """Return a copy of x on the host, whether it has arrived, and how to wait for it."""
    copy = x.to("cpu", non_blocking=True)
    if x.device.type == "cpu":
        return copy, lambda: True, lambda: None
    event = torch.Event(x.device)
    event.record()
    return copy, event.query, event.synchronize
