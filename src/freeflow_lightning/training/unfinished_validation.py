"""UnfinishedValidation: a validation that a run died in is made up for when the run is resumed."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

PENDING = "validation_pending"


class UnfinishedValidation(Callback):
    """Marks the checkpoints of steps whose validation is still to come, and validates first on resuming from one.

    Lightning writes the checkpoint of a step before it validates, and takes the validation for done on resuming: the
    figures, the picture and the best candidate of a validation that a kill interrupts would be lost.
    """

    def __init__(self) -> None:
        self._seen_step = self._validated_step = -1
        self._is_due = False
        self._resumed_step = -1
        self._max_steps: int | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seen_step = trainer.global_step
        self._is_due = is_due(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated_step = trainer.global_step

    def is_pending(self, trainer: Trainer) -> bool:
        """Whether the validation of the present step is still to come."""
        if self._validated_step == trainer.global_step:
            return False
        return self._is_due if self._seen_step == trainer.global_step else is_due(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.is_pending(trainer):
            checkpoint[PENDING] = True

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING or not checkpoint.get(PENDING):
            return
        begin_validation(checkpoint["loops"]["fit_loop"])
        self._resumed_step = checkpoint["global_step"]
        if trainer.strategy.restore_checkpoint_after_setup:
            self._lift_limit(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._lift_limit(trainer)

    def _lift_limit(self, trainer: Trainer) -> None:
        """Let Lightning enter its loop although max_steps is reached: the validation is the first thing that it does there.

        Not earlier than here, where learning-rate schedules know the length of the run.
        """
        if 0 <= trainer.max_steps <= self._resumed_step:
            self._max_steps = trainer.max_steps
            trainer.fit_loop.epoch_loop.max_steps = self._resumed_step + 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps
            self._max_steps = None


def is_due(trainer: Trainer) -> bool:
    """Whether Lightning validates after the batch that is ending."""
    loop = trainer.fit_loop
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def begin_validation(loops: dict[str, Any]) -> None:
    """Change the progress of a fit loop at the end of a batch into that at the start of the validation that follows.

    Lightning goes on from there as from a checkpoint that was written within the validation.
    """
    batches = loops["epoch_loop.batch_progress"]
    for progress in (batches["total"], batches["current"]):
        progress["completed"] = progress["processed"]
    first = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    loops["epoch_loop.val_loop.batch_progress"] = {"total": dict(first), "current": dict(first), "is_last_batch": False}
