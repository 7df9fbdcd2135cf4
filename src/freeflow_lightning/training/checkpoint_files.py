"""Checkpoints that are whole or not there, as one file or as the folder of a sharded run, each read
by every strategy.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.strategies import Strategy
from torch.distributed.checkpoint.api import CheckpointException

from freeflow_lightning.training.atomic_write import (
    describe_full_disk,
    find_full_disk,
    sweep,
    write_file,
)
from freeflow_lightning.training.checkpoint_damage import defect
from freeflow_lightning.training.checkpoint_folder import refuse_other_folder
from freeflow_lightning.training.checkpoint_reader import read_checkpoint_file


class CheckpointWriteError(OSError):
    """A checkpoint could not be written, and nothing of it is left; the message says what to go on
    from.
    """

    def __str__(self) -> str:
        return str(self.strerror)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, renamed into place on the same disk; the folders of sharded
    runs are read as well.

    Lightning itself collects the file in the system's temporary folder: where that is another disk,
    moving it is a copy, and a process that is killed meanwhile leaves half a checkpoint under the
    right name. Other than local paths are left to Lightning. Whatever the place, what is read is
    tensors and plain values: nothing in it is executed.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        refuse_other_folder(target)
        sweep(target.parent, [target.name])
        try:
            with write_file(target) as temporary:
                with temporary.open(
                    "wb"
                ) as file:  # to a file of ours: its errors say what the system's were
                    torch.save(checkpoint, file)
                if target.is_dir():  # a sharded run's, now resumed by another strategy
                    shutil.rmtree(target)
        except OSError as error:
            raise CheckpointWriteError(
                error.errno, f"{target}: {error.strerror or error}; {advice(target)}"
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        return read_checkpoint_file(path, map_location)


def read_plain_values(strategy: Strategy) -> None:
    """Put this package's reader in the place of Lightning's, which unpickles what an address leads
    to and tears files.
    """
    io: CheckpointIO | None = strategy.checkpoint_io
    if type(io) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()
    while isinstance(io, _WrappingCheckpointIO):
        if type(io.checkpoint_io) is TorchCheckpointIO:
            io._checkpoint_io = AtomicCheckpointIO()  # its setter sets it once
        io = io.checkpoint_io


def advice(target: Path) -> str:
    """Return what to do where a checkpoint could not be written: the last good one is still
    there.
    """
    written = sorted(
        target.parent.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    good = next((path for path in written if not defect(path)), None)
    if good is None:
        return "no checkpoint was written before it: make room and start again"
    return f"the last good checkpoint is {good}: make room and go on with --ckpt_path {quote(str(good))}"


@contextmanager
def write_whole_folder(folder: Path, barrier: Callable[[], None], *, first: bool) -> Iterator[Path]:
    """A temporary folder that all processes write to, renamed to `folder` when all are done.

    Raises:
        CheckpointWriteError: the disk is full.
        ValueError: a folder of that name holds something else.
    """
    refuse_other_folder(folder)
    temporary, old = (folder.with_name(f".{folder.name}.{part}") for part in ("tmp", "old"))
    if first:
        shutil.rmtree(temporary, ignore_errors=True)
    barrier()
    try:
        yield temporary
    except (
        Exception,
        CheckpointException,
    ) as error:  # the latter is none, and is raised on every process
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
        code = find_full_disk(error)
        if code is None:
            raise
        message = f"{folder}: {describe_full_disk(code, folder)}; {advice(folder)}"
        raise CheckpointWriteError(code, message) from error
    barrier()
    if first:
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        if old.exists():
            old.unlink()  # it was one file
    barrier()
