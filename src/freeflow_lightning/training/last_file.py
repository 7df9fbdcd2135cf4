"""The checkpoint called last, among what a Trainer's ModelCheckpoints write."""

import os
import re
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


def model_checkpoints(trainer: Trainer) -> list[ModelCheckpoint]:
    """Return what the user, or Lightning by default, has asked to be saved."""
    return [
        callback
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
    ]


def holds_step(keeper: ModelCheckpoint, step: int, weights_only: bool = False) -> bool:
    """Return whether the newest file of a ModelCheckpoint, not its best one, is of this step, and
    in full unless asked.
    """
    saved = keeper._last_checkpoint_saved
    is_written = bool(saved) and keeper._last_global_step_saved == step
    is_newest = keeper.monitor is None or is_called_last(saved)
    return is_written and is_newest and (weights_only or not keeper.save_weights_only)


def last_path(trainer: Trainer) -> str:
    """Return the file called last: that of the ModelCheckpoint which writes one, or last.ckpt
    beside the other checkpoints. Never that of the run that this one has gone on from.
    """
    keepers = sorted(model_checkpoints(trainer), key=lambda keeper: keeper.monitor is not None)
    for keeper in keepers:
        newest = keeper.best_model_path if keeper.monitor is None else ""
        for path in (keeper.last_model_path, newest):
            if is_called_last(path) and is_below(path, str(keeper.dirpath)):
                return path
    return os.path.join(str(keepers[0].dirpath), f"last{keepers[0].FILE_EXTENSION}")


def is_called_last(path: str) -> bool:
    """Return whether a file's name is last, or last-v1 and so on, as Lightning counts where it
    finds a file of that name.

    >>> is_called_last("a/last.ckpt"), is_called_last("a/last-v2.ckpt"), is_called_last("a/last-step=8.ckpt")
    (True, True, False)
    """
    return re.fullmatch(r"last(-v\d+)?", Path(path).stem) is not None


def is_below(path: str, folder: str) -> bool:
    """Return whether a path leads into a folder: a ModelCheckpoint that was restored still names
    the file of the run that wrote the checkpoint.

    >>> is_below("a/b/last.ckpt", "a"), is_below("b/last.ckpt", "a")
    (True, False)
    """
    return Path(os.path.abspath(folder)) in Path(os.path.abspath(path)).parents


def is_same_file(a: str, b: str) -> bool:
    """Return whether two paths lead to one file, which `last` does as a link."""
    return os.path.realpath(a) == os.path.realpath(b)
