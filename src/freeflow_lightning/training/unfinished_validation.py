"""UnfinishedValidation: a validation that a run died in is made up for when the run is resumed."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from freeflow_lightning.training.checkpoint_damage import contents
from freeflow_lightning.training.loop_progress import set_to_end_of_step, set_to_start_of_validation

PENDING = "validation_pending"
"""In checkpoints that were written before their step's validation."""
LOOPS_AS_SAVED = "loops_as_saved"
"""The fit loop's progress in such a checkpoint; what Lightning loads is that of the validation's
start.
"""


class UnfinishedValidation(Callback):
    """Marks the checkpoints of steps whose validation is still to come, and validates first on
    resuming from one.

    Lightning writes the checkpoint of a step before it validates, and takes the validation for done
    on resuming: the figures, the picture and the best candidate of a validation that a kill
    interrupts would be lost.
    """

    def __init__(self) -> None:
        self._forget()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._forget()

    def _forget(self) -> None:
        """Start anew: a Trainer may run again."""
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
        """Return whether the validation of the present step is still to come."""
        if self._validated_step == trainer.global_step:
            return False
        return self._is_due if self._seen_step == trainer.global_step else is_due(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.is_pending(trainer):
            checkpoint[PENDING] = True

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        loops = checkpoint["loops"]["fit_loop"]
        set_to_end_of_step(loops)
        if not checkpoint.get(PENDING):
            return
        checkpoint[LOOPS_AS_SAVED] = deepcopy(loops)
        set_to_start_of_validation(loops)
        self._resumed_step = checkpoint["global_step"]
        if trainer.strategy.restore_checkpoint_after_setup:
            self._lift_limit(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._lift_limit(trainer)

    def _lift_limit(self, trainer: Trainer) -> None:
        """Let Lightning enter its loop although max_steps is reached: the validation is the first
        thing that it does there.

        Not earlier than here, where learning-rate schedules know the length of the run.
        """
        if 0 <= trainer.max_steps <= self._resumed_step and validates(trainer):
            self._max_steps = trainer.max_steps
            trainer.fit_loop.epoch_loop.max_steps = self._resumed_step + 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps = self._max_steps
            self._max_steps = None


def is_due(trainer: Trainer) -> bool:
    """Return whether Lightning validates after the batch that is ending."""
    loop = trainer.fit_loop
    has_samples = sum(trainer.num_val_batches) > 0
    return (
        has_samples
        and loop._data_fetcher is not None
        and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
    )


def validates(trainer: Trainer) -> bool:
    """Return whether a run that is about to start has something to validate on."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    trainer.validating = True
    loop.setup_data()
    trainer.training = True
    return not loop.skip


def is_validation_pending(path: Path) -> bool:
    """Return whether resuming from a checkpoint begins with the validation of its step."""
    return PENDING in contents(path)
