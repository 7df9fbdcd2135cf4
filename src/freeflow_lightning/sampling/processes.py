"""Several processes that share one job: torchrun's, or those that a command starts itself. They
meet over gloo, on the CPU.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import torch
from torch import distributed

COMMAND = (sys.executable, "-m", "freeflow_lightning.commands.main")
PIPE = "FREEFLOW_PARENT_PIPE"
"""Environment variable with the number of a file that closes when the process that started this one
ends.
"""


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
        """Return every process's item in the order of ranks, on the first process; None on the
        others.
        """
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
        """Return the first process's item, on every process."""
        if self.size == 1:
            return item
        items = [item if self.first else None]
        distributed.broadcast_object_list(items)
        return items[0]


@contextmanager
def join_processes() -> Iterator[Processes]:
    """This process among those that torchrun (or `start`) has started, as its environment variables
    say; alone without them.

    Raises:
        RuntimeError: another of the processes has ended.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    end_with_parent()
    distributed.init_process_group("gloo")
    try:
        yield Processes(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
    except RuntimeError as error:
        if "gloo" not in str(error):
            raise
        raise RuntimeError(
            f"another of the {size} processes has ended: see its own message"
        ) from error
    finally:
        distributed.destroy_process_group()


def end_with_parent() -> None:
    """End this process when the one that `start`ed it ends, even if that is killed: a pipe between
    them closes then.
    """
    pipe = os.environ.pop(PIPE, None)
    if pipe is None:
        return

    def wait() -> None:
        os.read(int(pipe), 1)  # nothing is ever written: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()


def starts_others(devices: int) -> bool:
    """Return whether this process is the one that has to start `devices` others (torchrun has done
    so already under torchrun).

    Raises:
        ValueError: fewer than one device, or another number than torchrun's processes.
    """
    if devices < 1:
        raise ValueError(f"expected at least one device, got {devices}")
    size = os.environ.get("WORLD_SIZE")
    if size and devices not in (1, int(size)):
        raise ValueError(
            f"--devices {devices} under torchrun with {size} processes: leave --devices out"
        )
    return size is None and devices > 1


def start(devices: int) -> None:
    """Run this command line in `devices` processes, and end with the first exit code that is not 0.

    Only the first process's messages are seen, or those of the one that failed; of one that a
    signal has ended, the signal is named. The processes end when this one does, however it does,
    and SIGTERM is passed on to them.
    """
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(devices)]
        held, pipe = os.pipe()
        stack.callback(os.close, held)
        stack.callback(os.close, pipe)
        running: list[subprocess.Popen] = []
        stack.callback(_end_all, running)
        stack.enter_context(_passing_on(signal.SIGTERM, running))
        for rank, environment in enumerate(_environments(devices)):
            process = subprocess.Popen(
                [*COMMAND, *sys.argv[1:]],
                env=environment | {PIPE: str(held)},
                stdout=logs[rank] if rank else None,
                stderr=logs[rank] if rank else None,
                pass_fds=[held],
                process_group=0,  # Ctrl-C reaches this process alone, which ends them
            )
            running.append(process)
        while all(code in (None, 0) for code in _codes(running)) and None in _codes(running):
            time.sleep(0.05)
        _say_what_failed(running, logs)


def _environments(devices: int) -> list[dict[str, str]]:
    """Return what tells each process its place among the others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, torch.get_num_threads() // devices))
    shared = {
        "WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": threads,
    }
    return [
        os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(devices)
    ]


def _codes(running: list[subprocess.Popen]) -> list[int | None]:
    """Return the exit codes so far."""
    return [process.poll() for process in running]


@contextmanager
def _passing_on(number: signal.Signals, running: list[subprocess.Popen]) -> Iterator[None]:
    """Pass a signal on to the processes, and end with the exit code that says so (128 + its
    number).
    """

    def pass_on(received: int, frame: Any) -> NoReturn:
        for process in running:
            process.send_signal(received)
        print(
            f"freeflow {sys.argv[1]}: stopped by {number.name}, with its {len(running)} processes",
            file=sys.stderr,
        )
        sys.exit(128 + received)

    earlier = signal.signal(number, pass_on)
    try:
        yield
    finally:
        signal.signal(number, earlier)


def _end_all(running: list[subprocess.Popen]) -> None:
    for process in running:
        process.kill()
        process.wait()


def _say_what_failed(running: list[subprocess.Popen], logs: list[Any]) -> None:
    """End with the exit code of the process that failed and its messages; quietly if none did."""
    codes = _codes(running)
    failed = [rank for rank, code in enumerate(codes) if code]
    if not failed:
        return
    killed = [rank for rank in failed if (codes[rank] or 0) < 0]
    rank = killed[0] if killed else failed[0]
    if not killed and _ends_with_an_error(running[0]):
        rank = 0  # what all of them met, it has said already
    if rank:
        logs[rank].seek(0)
        sys.stderr.write(logs[rank].read())
    code = codes[rank] if rank else running[0].returncode
    assert code is not None  # it has ended
    if code < 0:
        name = signal.Signals(-code).name
        advice = " (the kernel does so where memory runs out)" if name == "SIGKILL" else ""
        print(
            f"freeflow {sys.argv[1]}: process {rank} of {len(running)} was ended by "
            f"{name}{advice}: run it again",
            file=sys.stderr,
        )
    sys.exit(128 - code if code < 0 else code)


def _ends_with_an_error(process: subprocess.Popen, patience_s: float = 3.0) -> bool:
    """Return whether a process fails too, within a moment."""
    try:
        return process.wait(patience_s) != 0
    except subprocess.TimeoutExpired:
        return False
