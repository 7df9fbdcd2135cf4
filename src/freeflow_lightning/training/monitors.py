"""MonitoredFigures: a figure that a run is to be judged by is one that the run logs."""

import difflib
import logging

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

log = logging.getLogger(__name__)
COUNTS = {"epoch", "step"}
"""What a ModelCheckpoint may watch beside figures."""


class MonitoredFigures(Callback):
    """Refuses a ModelCheckpoint or EarlyStopping that watches a figure which the run does not log.

    Which figures a run logs is known once it has validated and has logged a training step. A run
    that ends before that says at its end which of them nobody has seen.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        has_logged = trainer.global_step >= trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector
        if is_training and has_logged and (complaint := find_unlogged(trainer)):
            raise ValueError(complaint)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, owner in unlogged(trainer).items() if trainer.is_global_zero else ():
            log.warning("the run ended before it logged %r, which %s watches", name, owner)


def find_unlogged(trainer: Trainer) -> str:
    """Say which figure a callback watches that the run has not logged so far; empty for none."""
    logged = sorted(trainer.callback_metrics)
    for name, owner in unlogged(trainer).items():
        close = difflib.get_close_matches(name, logged, 5, 0.0)
        return (
            f"expected {owner} to watch a figure that the run logs, got {name!r}: of the "
            f"{len(logged)} that it has logged the closest are {', '.join(close) or 'none'}"
        )
    return ""


def unlogged(trainer: Trainer) -> dict[str, str]:
    """Return the figures that callbacks watch and the run has not logged so far, with the class of
    each callback.
    """
    needed, logged = monitors(trainer), trainer.callback_metrics
    return {name: owner for name, owner in needed.items() if name not in logged}


def monitors(trainer: Trainer) -> dict[str, str]:
    """Return the figures that callbacks need, and the callback's class of each."""
    needed = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set by a connector
        is_stopper = isinstance(callback, EarlyStopping) and callback.strict
        is_keeper = isinstance(callback, ModelCheckpoint) and callback.save_top_k != 0
        name = callback.monitor if is_stopper or is_keeper else None
        if name is not None and name not in COUNTS:
            needed[name] = type(callback).__name__
    return needed
