"""ValidationAtEnds: a validation before the first step of a run, and one after its last."""

from typing import final

from lightning.pytorch import Callback, LightningModule, Trainer

from freeflow_lightning.callbacks.checks import refuse_second
from freeflow_lightning.training.trainer_facts import log_at_step


@final
class ValidationAtEnds(Callback):
    """Curves of validated figures start at step 0 and end at the last step of a run.

    The Trainer validates at the end of epochs alone: a curve lacks the student that has not learnt
    yet, and where max_steps ends an epoch early, the one that is kept. A resumed run has its first
    point already.
    """

    def __init__(self) -> None:
        self._validated_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_second(trainer, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._validate(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._validated_step = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self._validated_step:
            self._validate(trainer)

    def _validate(self, trainer: Trainer) -> None:
        """As the Trainer does between two training steps, logged at the last one's number."""
        log_at_step(trainer, max(0, trainer.global_step - 1))
        trainer.validating = True
        trainer.fit_loop.epoch_loop.val_loop.run()
        trainer.training = True
