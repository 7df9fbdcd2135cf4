"""The progress of Lightning's fit loop: as it is at the end of a step, and brought into the one form
that Lightning resumes from rightly.
"""

from typing import Any, NamedTuple

from lightning.pytorch import Trainer

Loops = dict[str, Any]
"""The state of a fit loop, as Lightning saves it: counts of epochs and batches that are ready, started, processed and
completed, each in total and of the present epoch."""

BATCHES = "epoch_loop.batch_progress"
VALIDATION = "epoch_loop.val_loop.batch_progress"


def set_to_end_of_step(loops: Loops) -> None:
    """Count the last batch as processed and not completed, and its epoch as started and not
    processed.

    So do checkpoints that are written at the end of a batch. From one that is written later, in a
    validation or at the end of an epoch, Lightning would count an epoch twice. What was saved after
    a run is left as it is.

    >>> epoch = {"ready": 2, "started": 2, "processed": 2, "completed": 1}
    >>> batch = {"ready": 8, "started": 8, "processed": 8, "completed": 8}
    >>> loops = {"epoch_progress": {"total": epoch, "current": epoch}, BATCHES: {"total": batch, "current": batch}}
    >>> set_to_end_of_step(loops)
    >>> epoch["processed"], epoch["completed"], batch["processed"], batch["completed"]
    (1, 1, 8, 7)
    """
    epochs, batches = loops["epoch_progress"], loops[BATCHES]
    is_in_epoch = epochs["current"]["completed"] < epochs["current"]["ready"]
    is_in_batch = batches["current"]["completed"] < batches["current"]["processed"]
    if not is_in_epoch and not is_in_batch:
        return
    for epoch in (epochs["total"], epochs["current"]):
        epoch["processed"] = epoch["completed"]
        epoch["ready"] = epoch["started"] = epoch["completed"] + 1
    for batch in (batches["total"], batches["current"]):
        batch["completed"] = batch["processed"] - 1


def set_to_start_of_validation(loops: Loops) -> None:
    """Go from the end of a step to the start of the validation that follows; Lightning resumes by
    validating.
    """
    for batch in (loops[BATCHES]["total"], loops[BATCHES]["current"]):
        batch["completed"] = batch["processed"]
    first = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    loops[VALIDATION] = {"total": dict(first), "current": dict(first), "is_last_batch": False}


def scale_epoch(loops: Loops, before: int, now: int) -> None:
    """Count the batches of the present epoch anew, where an optimizer step is made of `now` of them
    and was made of `before`. The total, which noise is drawn by, goes on.

    >>> loops = {BATCHES: {"current": {"ready": 6, "started": 6, "processed": 6, "completed": 5}}}
    >>> scale_epoch(loops, 2, 4)
    >>> loops[BATCHES]["current"]
    {'ready': 12, 'started': 12, 'processed': 12, 'completed': 11}
    """
    count = loops[BATCHES]["current"]
    shift = count["processed"] // before * (now - before)
    for name in count:
        count[name] += shift


class Progress(NamedTuple):
    """How far the fit loop was at the end of an optimizer step, without what it has begun since."""

    step: int
    epoch: int
    loops: dict[str, Any]


def progress_of(trainer: Trainer) -> Progress:
    """Return the progress as it is now."""
    return Progress(trainer.global_step, trainer.current_epoch, trainer.fit_loop.state_dict())
