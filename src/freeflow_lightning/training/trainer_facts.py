"""What this package asks a Trainer: the one place that looks at its counts and loops."""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from freeflow_lightning.flow import check_counts, check_numbers


def check_trainer(trainer: Any) -> None:
    """Refuse what Lightning takes without a look: counts that it divides by or that say nothing, and
    a bound of gradients that would turn them round.

    Raises:
        ValueError: such a count below 1 (below 0 for what 0 turns off), or such a bound below 0.
    """
    check_counts(0, **{"trainer.log_every_n_steps": trainer.log_every_n_steps})
    for name in ("min_steps", "min_epochs"):
        check_counts(0, **{f"trainer.{name}": getattr(trainer, name) or 0})
    if trainer.num_sanity_val_steps != math.inf:  # what Lightning makes of -1, all batches
        check_counts(0, **{"trainer.num_sanity_val_steps": trainer.num_sanity_val_steps})
    check_counts(1, **{"trainer.accumulate_grad_batches": trainer.accumulate_grad_batches})
    if trainer.check_val_every_n_epoch is not None:
        check_counts(1, **{"trainer.check_val_every_n_epoch": trainer.check_val_every_n_epoch})
    if trainer.val_check_interval == 0:
        raise ValueError("expected trainer.val_check_interval to be above 0, got 0")
    if trainer.gradient_clip_val is not None:
        check_numbers(0, **{"trainer.gradient_clip_val": trainer.gradient_clip_val})


def is_logged(trainer: Trainer, step: int) -> bool:
    """Return whether Lightning writes figures after `step` optimizer steps; every 0 steps, as in a
    barebones Trainer, is never.
    """
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning's logger connector, undeclared
    return every > 0 and step % every == 0


def log_at_step(trainer: Trainer, step: int) -> None:
    """Let the next figures be logged at `step`: after resuming from a validation's checkpoint
    Lightning is one ahead.
    """
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def current_batch(trainer: Trainer) -> int:
    """Return the number of the training batch that this process is at, over all epochs and resumed
    runs, from 0 on; while a batch is being fetched that of the one before, -1 before the first.
    """
    return trainer.fit_loop.total_batch_idx


def find_newest_checkpoint(trainer: Trainer) -> Path | None:
    """Return the checkpoint that was written last, named by a callback or beside one that is; None
    before the first.
    """
    callbacks = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    names = [path for c in callbacks for path in (c.last_model_path, c.best_model_path) if path]
    folders = [Path(c.dirpath) for c in callbacks if c.dirpath]
    paths = {Path(name) for name in names}  # a path is named before it is written
    for folder in folders:
        paths.update(folder.glob("*.ckpt"))
    written = [path for path in paths if path.exists()]
    return max(written, key=lambda path: path.stat().st_mtime_ns, default=None)
