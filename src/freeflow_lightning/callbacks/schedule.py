"""StepSchedule: one number of a recipe as a function of the optimizer step, set before each
step.
"""

from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from freeflow_lightning.callbacks.checks import refuse_second, warn_beyond_end


class StepSchedule(Callback, ABC):
    """Owns a number of the module. It is derived from the step alone, so it needs no state."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Optimizer steps until it is what it stays; a run that ends earlier is warned of."""

    @abstractmethod
    def check(self, module: LightningModule) -> None:
        """Refuse a module on which it has no effect (ValueError)."""

    @abstractmethod
    def set_value(self, module: Any, step: int) -> None:
        """Give the module the number of this step."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.check(pl_module)
        refuse_second(trainer, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        warn_beyond_end(trainer, self, self.length)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        self.set_value(pl_module, trainer.global_step)
