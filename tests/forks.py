"""Processes that start in a tenth of a second instead of ten: forks of one that has imported torch and Lightning.

A test that is about how a process starts (the installed command, Lightning's own start of another one, an import) starts a
real one.
"""

import contextlib
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from freeflow_lightning.commands import main as cli

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["pytest", *(f"freeflow_lightning.commands.{verb}" for verb in ("fit", "evaluate", "search"))]
)
PATIENCE_S = 300.0


def start(function: Callable, *arguments: Any, said: str = "said", **variables: str) -> BaseProcess:
    """Call a function of a module in a process of its own, in this folder, with further environment variables.

    What it prints goes into the files `said`.out and `said`.err.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    process = FORKS.Process(target=_enter, args=(environment, said, function, arguments))
    process.start()
    return process


def _enter(environment: dict[str, str], said: str, function: Callable, arguments: tuple) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR may be another
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{said}.{name}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    function(*arguments)


def freeflow(*words: Any) -> None:
    """The command; to be called in a process of its own."""
    sys.argv = ["freeflow", *map(str, words)]
    cli.main()


def freeflow_script(*words: Any) -> None:
    """The command as a file that runs it, for Lightning, which starts other processes with the same command line."""
    script = Path("freeflow.py").resolve()
    script.write_text("from freeflow_lightning.commands.main import main; main()")
    sys.argv = [str(script), *map(str, words)]
    cli.main()


def heard(said: str = "said") -> tuple[str, str]:
    """What a process has printed so far: stdout and stderr."""
    return Path(f"{said}.out").read_text(), Path(f"{said}.err").read_text()


def end(*processes: BaseProcess) -> list[int | None]:
    """Wait for the end of processes, or of the first that fails, and end the others by force: their exit codes."""
    until = time.monotonic() + PATIENCE_S
    with ended(*processes):
        while any(process.exitcode is None for process in processes) and time.monotonic() < until:
            if any(process.exitcode for process in processes):
                break
            time.sleep(0.02)
        return [process.exitcode for process in processes]


@contextlib.contextmanager
def ended(*processes: BaseProcess) -> Iterator[None]:
    """Whatever happens in the block, the processes end with it."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def run(function: Callable, *arguments: Any, said: str = "said", **variables: str) -> str:
    """Call a function in a process of its own, to its end: what it printed."""
    codes = end(start(function, *arguments, said=said, **variables))
    out, err = heard(said)
    assert codes == [0], err[-3000:]
    return out


def run_together(size: int, function: Callable, *arguments: Any, **variables: str) -> None:
    """Call a function in processes that meet over gloo as those of torchrun do, to their end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "GROUP_WORLD_SIZE": "1",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    processes = []
    for rank in range(size):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        more = shared | own | variables
        processes.append(start(function, *arguments, said=f"said_{rank}", **more))
    codes = end(*processes)
    said = [heard(f"said_{rank}")[1][-3000:] for rank, code in enumerate(codes) if code != 0]
    assert codes == [0] * size, "\n".join(said)
