"""Seconds of a device, or of one thread's own work."""

import time
from collections.abc import Callable

import torch


class Clock:
    """Seconds. On a CPU with one thread: those this thread has worked, so that other processes do
    not count; else of the wall.

    Args:
        device: waited for before each look.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        self.now, self.name = (time.thread_time, "CPU time") if alone else (self._wall, "wall time")

    def _wall(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def __call__(self, run: Callable[[], object]) -> float:
        """Return how long a run takes."""
        start = self.now()
        run()
        return self.now() - start
