"""A folder that one process at a time writes to."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


@contextmanager
def lock_folder(folder: Path, verb: str) -> Iterator[None]:
    """Make a folder if there is none, and keep other processes from filling it meanwhile.

    A process that ends, however it ends, keeps nothing.

    Raises:
        ValueError: another process is filling the folder, or a file is in its way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(
            f"expected a folder at {folder}, found a file: choose another folder"
        ) from error
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not take_lock(handle):
            raise ValueError(
                f"another process is writing to {folder}: wait for its end, or choose another "
                f"folder for freeflow {verb}"
            )
        yield
    finally:
        os.close(handle)


def take_lock(handle: int) -> bool:
    """Lock an open file or folder; whether no other process has it. Where the file system knows no
    locks, the log says so.
    """
    try:
        import fcntl  # noqa: PLC0415 (not on every system)

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError) as error:
        log.warning(
            "the output folder cannot be locked (%s): let one process at a time write to it", error
        )
    return True
