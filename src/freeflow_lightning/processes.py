"""Several processes that share one job: torchrun's, or those that a command starts itself. They meet over gloo, on the CPU."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import distributed


class Processes(NamedTuple):
    """This process among the others; `Processes()` is one that works alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints for all."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            distributed.barrier()

    def gather(self, item: Any) -> list[Any] | None:
        """Every process's item in the order of ranks, on the first process; None on the others."""
        if self.size == 1:
            return [item]
        if distributed.get_backend() == "gloo":
            items: list[Any] | None = [None] * self.size if self.first else None
            distributed.gather_object(item, items)
            return items
        everywhere: list[Any] = [None] * self.size
        distributed.all_gather_object(everywhere, item)
        return everywhere if self.first else None

    def share(self, item: Any) -> Any:
        """The first process's item, on every process."""
        if self.size == 1:
            return item
        items = [item if self.first else None]
        distributed.broadcast_object_list(items)
        return items[0]


@contextmanager
def joined() -> Iterator[Processes]:
    """This process among those that torchrun (or `start`) has started, as its environment variables say; alone without them."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    distributed.init_process_group("gloo")
    try:
        yield Processes(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        distributed.destroy_process_group()


def starts_others(devices: int) -> bool:
    """Whether this process is the one that has to start `devices` others (torchrun has done so already under torchrun).

    Raises:
        ValueError: fewer than one device, or another number than torchrun's processes.
    """
    if devices < 1:
        raise ValueError(f"expected at least one device, got {devices}")
    size = os.environ.get("WORLD_SIZE")
    if size and devices not in (1, int(size)):
        raise ValueError(f"--devices {devices} under torchrun with {size} processes: leave --devices out")
    return size is None and devices > 1


def start(devices: int) -> None:
    """Run this command line in `devices` processes, and end with the first exit code that is not 0.

    Only the first process's messages are seen, or those of the one that failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, torch.get_num_threads() // devices))
    shared = {"WORLD_SIZE": str(devices), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": threads}
    quiet = [tempfile.TemporaryFile("w+") for _ in range(devices)]  # noqa: SIM115 (they live as long as the processes)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "freeflow_lightning.cli", *sys.argv[1:]],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=quiet[rank] if rank else None,
            stderr=quiet[rank] if rank else None,
        )
        for rank in range(devices)
    ]
    try:
        while not any(process.poll() for process in running) and any(process.poll() is None for process in running):
            time.sleep(0.05)
        failed = [rank for rank, process in enumerate(running) if process.poll()]
        if failed and _ends_with_an_error(running[0]):
            failed = [0]  # what all of them met, it has said already
        if failed and 0 not in failed:
            quiet[failed[0]].seek(0)
            sys.stderr.write(quiet[failed[0]].read())
        if failed:
            sys.exit(running[failed[0]].returncode)
    finally:
        for process in running:
            process.kill()
            process.wait()


def _ends_with_an_error(process: subprocess.Popen, patience_s: float = 3.0) -> bool:
    """Whether a process fails too, within a moment."""
    try:
        return process.wait(patience_s) != 0
    except subprocess.TimeoutExpired:
        return False
