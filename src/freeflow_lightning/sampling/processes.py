"""This process among several that share one job; they meet over gloo, on the CPU."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import distributed

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
    """This process among those that torchrun (or `commands.start_processes`) has started, as its environment variables
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
    """End this process when the one that started it ends, even if that is killed: a pipe between
    them closes then.
    """
    pipe = os.environ.pop(PIPE, None)
    if pipe is None:
        return

    def wait() -> None:
        os.read(int(pipe), 1)  # nothing is ever written: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="end with parent", daemon=True).start()
