"""AlphaSchedule: owns alpha(n), the correction's strength relative to the prediction (App. A.3)."""

import math

from lightning.pytorch import Callback, LightningModule, Trainer

from freeflow_lightning.callbacks.checks import refuse_second, warn_beyond_end
from freeflow_lightning.flow import alpha
from freeflow_lightning.recipes.flow_map import FlowMapModule
from freeflow_lightning.recipes.freeflow import FreeFlowModule


class AlphaSchedule(Callback):
    """Sets the module's alpha at each step from its alpha_ref. Derived from the step alone, so it
    needs no state.

    Args:
        delay_steps: T_delay, optimizer steps with alpha = 0.
        warmup_steps: T_warmup, steps of the linear rise after them.
        decay_steps: T_decay of the inverse square root that follows; infinity for none (SiT),
            25_000 for REPA.
    """

    def __init__(
        self,
        delay_steps: int = 10_000,  # Table 6
        warmup_steps: int = 10_000,  # Table 6
        decay_steps: float = math.inf,  # Table 6
    ) -> None:
        alpha(
            0, delay_steps=delay_steps, warmup_steps=warmup_steps, decay_steps=decay_steps
        )  # refuses
        self.delay_steps, self.warmup_steps, self.decay_steps = (
            delay_steps,
            warmup_steps,
            decay_steps,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not isinstance(
            pl_module, FreeFlowModule | FlowMapModule
        ) or pl_module.correction_fraction in (0, 1):
            raise ValueError(
                "AlphaSchedule has no effect here: it balances prediction against correction, "
                "and only one of them is on; remove it, or set correction_fraction "
                "(FlowMapModule: correction) between 0 and 1"
            )
        refuse_second(trainer, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        warn_beyond_end(trainer, self, self.delay_steps + self.warmup_steps)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: FreeFlowModule | FlowMapModule,
        batch: object,
        batch_idx: int,
    ) -> None:
        pl_module.alpha = alpha(
            trainer.global_step,
            reference=pl_module.alpha_ref,
            delay_steps=self.delay_steps,
            warmup_steps=self.warmup_steps,
            decay_steps=self.decay_steps,
        )
