"""What callbacks check of the run that they are in."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from freeflow_lightning.recipes.distillation import Distillation

log = logging.getLogger(__name__)


def check_distillation(module: LightningModule, callback: Callback, purpose: str) -> Distillation:
    """Return the module of the run; refuse one that has no teacher and no flow map.

    Args:
        module: of the run.
        callback: what is set up.
        purpose: what it does, as a verb and its object.

    Raises:
        ValueError: another module than a Distillation.
    """
    if not isinstance(module, Distillation):
        raise ValueError(
            f"{type(callback).__name__} {purpose}: it belongs to a Distillation, got a "
            f"{type(module).__name__}; remove it"
        )
    return module


def refuse_second(trainer: Trainer, callback: Callback) -> None:
    """Refuse a run with two callbacks of one kind that would set, log or write the same.

    Raises:
        ValueError: another callback of the same class is in the run.
    """
    kind = type(callback)
    if any(other is not callback and type(other) is kind for other in trainer.callbacks):  # type: ignore[attr-defined]  # set by a connector
        raise ValueError(
            f"expected one {kind.__name__}, got two: the second would overwrite what the first "
            f"does; remove one"
        )


def warn_beyond_end(trainer: Trainer, callback: Callback, steps: int) -> None:
    """Say at the start of a run that it ends before the schedule of a callback does.

    Args:
        steps: optimizer steps that the schedule takes.
    """
    end = trainer.max_steps
    if 0 < end < steps and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        log.warning(
            "%s takes %d steps and this run ends at step %d: shorten the schedule, or train longer "
            "(freeflow fit ... --trainer.max_steps %d)",
            type(callback).__name__,
            steps,
            end,
            steps,
        )
