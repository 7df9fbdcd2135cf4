"""This command line in several processes: they are started, watched, and end together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from freeflow_lightning.sampling.processes import PIPE

COMMAND = (sys.executable, "-m", "freeflow_lightning.commands.main")


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
