"""What fit reads of the checkpoint it goes on from: its step and its settings."""

from pathlib import Path
from typing import Any

import torch

from freeflow_lightning import callbacks, metrics, nets, teachers  # noqa: F401 (short names)
from freeflow_lightning.examples.digits import data as digits  # noqa: F401 (short names)
from freeflow_lightning.recipes import flow_matching  # noqa: F401 (short names)
from freeflow_lightning.recipes import freeflow as module  # noqa: F401 (short names)
from freeflow_lightning.training.checkpoint_damage import lack
from freeflow_lightning.training.checkpoint_folder import META
from freeflow_lightning.training.training_checkpoint import find_checkpoint


def find_given(path: str, *, trains: bool) -> str:
    """Return the checkpoint that --ckpt_path names, of a run's folder its last one.

    Raises:
        FileNotFoundError: a folder without a checkpoint.
        ValueError: an empty word, or a run of which no checkpoint can be gone on from.
    """
    if not path:
        raise ValueError(
            "--ckpt_path: expected a checkpoint, a run's folder or 'last', got an empty word"
        )
    return str(find_checkpoint(path, trains=trains))


def read_step(path: str, *, trains: bool = False) -> int:
    """Return the optimizer step a checkpoint, a file or the folder of a sharded one, was written
    at.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: a file that is no checkpoint, or, for training, that holds weights alone.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"--ckpt_path: no checkpoint at {path}: give a .ckpt file, or 'last' for the newest "
            f"one of this config"
        )
    try:
        step = int(read_plain_part(Path(path))["global_step"])
        reason = lack(Path(path), trains=trains)
    except Exception as error:  # torch.load raises what the bytes of a damaged file lead to
        raise ValueError(
            f"--ckpt_path: {path} is not a readable checkpoint ({type(error).__name__})"
        ) from error
    if reason:
        verb = "training" if trains else "validation"
        raise ValueError(
            f"--ckpt_path: {verb} cannot go on from {path} ({reason}): give a checkpoint "
            "that was saved with save_weights_only: false, or 'last' for the newest such one of "
            "this config"
        )
    return step


def read_plain_part(checkpoint: Path) -> dict[str, Any]:
    """Return what a checkpoint says beside its tensors, which stay on the disk."""
    file = checkpoint / META if checkpoint.is_dir() else checkpoint
    content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return content


def read_settings(checkpoint: Path) -> dict[str, Any]:
    """Return the model's section of the config, as a checkpoint of `freeflow fit` carries it."""
    model = read_plain_part(checkpoint).get("hyper_parameters", {})
    return {"model": model} if "class_path" in model else {}
