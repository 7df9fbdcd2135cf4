"""Files and folders that are written whole or not at all: a temporary name beside the target,
fsync, rename.
"""

import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def write_file(target: str | Path, *, wait_for_disk: bool = True) -> Iterator[Path]:
    """A temporary path to write to, which becomes `target` when the block ends, and vanishes if the
    block fails.

    A reader, or a process that starts after a kill, sees the old file or the new one, never half of
    one.

    Args:
        target: the file; its folder is made if it does not exist.
        wait_for_disk: whether the disk must hold the bytes before the name changes. Milliseconds a
            file: without it a power failure may leave an empty file, which is for files that
            somebody compares with a digest.

    Raises:
        OSError: the disk is full or cannot be written to; the message names the target and, for a
            full disk, its free space.

    >>> with write_file("figures.txt") as path:
    ...     _ = path.write_text("1.5")
    >>> Path("figures.txt").read_text()
    '1.5'
    """
    target = Path(target)
    temporary = temporary_name(target)
    with tells_full_disk(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if wait_for_disk:
                sync(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def write_folder(target: str | Path) -> Iterator[Path]:
    """An empty temporary folder, which becomes `target` when the block ends, and vanishes if the
    block fails.

    An older folder (or file) of that name is replaced: whether it may be is for the caller to know.

    Raises:
        OSError: as `write_file` does.
    """
    target = Path(target)
    temporary, old = temporary_name(target), temporary_name(target, "old")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.mkdir()
    with tells_full_disk(target):
        try:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    sync(path)
            if target.exists():
                target.rename(old)
            temporary.rename(target)
        finally:
            remove(temporary)
            if old.exists() and not target.exists():
                old.rename(target)
            remove(old)


def write_text(target: str | Path, text: str) -> None:
    """Write a text file whole, in UTF-8."""
    with write_file(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: str | Path, content: Any) -> None:
    """Write plain values as JSON, whole; numbers that are not finite are refused (ValueError)."""
    write_text(target, json.dumps(content, indent=1, allow_nan=False) + "\n")


@contextmanager
def tells_full_disk(target: Path) -> Iterator[None]:
    """An error inside that a full disk is behind becomes an OSError with the target and what is
    free.
    """
    try:
        yield
    except Exception as error:
        code = find_full_disk(error)
        if code is None:
            raise
        raise OSError(code, describe_full_disk(code, target), str(target)) from error


def describe_full_disk(code: int, target: Path) -> str:
    """Return what the system says, and how much is free where the target was to be."""
    free = shutil.disk_usage(target.parent).free / 2**20
    limit = "; ulimit -f bounds the size of a file" if code == errno.EFBIG else ""
    return f"{os.strerror(code)}: {free:.1f} MiB are free{limit}"


def is_full_disk(error: BaseException) -> bool:
    """Return whether the disk has no room, by what `find_full_disk` sees.

    >>> is_full_disk(OSError(errno.ENOSPC, "")), is_full_disk(OSError(errno.EACCES, ""))
    (True, False)
    """
    return find_full_disk(error) is not None


def find_full_disk(error: BaseException) -> int | None:
    """Return the system's code of a full disk, a used-up quota or a limit on the size of files that
    is behind an error.

    Libraries that write raise errors of their own: torch a RuntimeError ("inline_container ...
    unexpected pos"), which has the system's error in its chain if it wrote to a Python file,
    safetensors one that quotes the system's message.

    """
    link: BaseException | None = error
    while link is not None:
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if os.strerror(code) in str(link) or getattr(link, "errno", None) == code:
                return code
        link = link.__cause__ or link.__context__
    return None


def temporary_name(target: Path, suffix: str = "tmp") -> Path:
    """Return the hidden name beside a target that this process writes under: it says which process
    of which machine left it.
    """
    return target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.{suffix}")


def sweep(folder: str | Path, names: Iterable[str], also: re.Pattern[str] | None = None) -> None:
    """Remove what killed processes of this machine have left of files or folders of these names,
    and nothing else.

    What a living process, or one of another machine, is writing stays.

    Args:
        folder: to look in; it need not exist.
        names: of the targets, not of the leftovers.
        also: a pattern of further names of targets.
    """
    if not Path(folder).is_dir():
        return
    known = set(names)
    pattern = re.compile(rf"\.(.+)\.{re.escape(socket.gethostname())}\.(\d+)\.(?:tmp|old)")
    for path in Path(folder).iterdir():
        match = pattern.fullmatch(path.name)
        if not match or is_alive(int(match[2])):
            continue
        if match[1] not in known and not (also and also.fullmatch(match[1])):
            continue
        target = path.with_name(match[1])
        if path.name.endswith(".old") and not target.exists():
            path.rename(target)  # the process died between the two renames of `write_folder`
        else:
            remove(path)


def is_alive(pid: int) -> bool:
    """Return whether a process of this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync(path: Path) -> None:
    """Have the disk hold a file's bytes before its name is changed."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
