"""Seconds and memory of a piece of work on a device."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch


def measure(device: torch.device, work: Callable[[], Any], *, rounds: int) -> dict[str, float]:
    """Median seconds of some rounds after one that is not timed, and the peak of the memory."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {"seconds": median(seconds), "peak_bytes": peak}
