"""The first number of a run that is not finite, found without the device ever waiting for the host."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Broken(NamedTuple):
    """The first optimizer step with numbers that are not finite, and what they belong to."""

    step: int
    names: tuple[str, ...]


class _Report(NamedTuple):
    """Which terms of a step are not finite: a copy on its way to the host, and whether it is there."""

    step: int
    names: tuple[str, ...]
    flags: Tensor
    arrived: Callable[[], bool]
    wait: Callable[[], object]


class FiniteWatch:
    """Flags are computed where the numbers are, and read on the host once they are there: at once on a CPU, a little later on
    an accelerator, which meanwhile goes on. `broken` keeps the optimizer from any update in between.

    >>> watch = FiniteWatch()
    >>> watch.add(7, {"fine": torch.ones(2), "bad": torch.tensor([1.0, torch.inf])})
    >>> watch.look(), watch.broken
    (Broken(step=7, names=('bad',)), tensor(1.))
    """

    def __init__(self) -> None:
        self.broken: Tensor | None = None
        """0 while all was finite, 1 from the first number on that was not; float32 [] on the device."""
        self._reports: deque[_Report] = deque()

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Flag the terms, tensors of any shape, of an optimizer step."""
        largest = torch.stack([torch.linalg.vector_norm(term.detach().float(), torch.inf) for term in terms.values()])
        bad = ~torch.isfinite(largest)
        broken = bad.any().float()
        self.broken = broken if self.broken is None else torch.maximum(self.broken, broken)
        self._reports.append(_Report(step, tuple(terms), *sent_to_host(bad)))

    def look(self, *, wait: bool = False) -> Broken | None:
        """The first broken step as far as the host knows by now; with `wait`, as far as the device has come."""
        while self._reports and (wait or self._reports[0].arrived()):
            report = self._reports.popleft()
            report.wait()
            names = tuple(name for name, bad in zip(report.names, report.flags.tolist(), strict=True) if bad)
            if names:
                return Broken(report.step, names)
        return None


def sent_to_host(x: Tensor) -> tuple[Tensor, Callable[[], bool], Callable[[], object]]:
    """A copy of x on the host, whether it has arrived, and how to wait for it."""
    copy = x.to("cpu", non_blocking=True)
    if x.device.type == "cpu":
        return copy, lambda: True, lambda: None
    event = torch.Event(x.device)
    event.record()
    return copy, event.query, event.synchronize
