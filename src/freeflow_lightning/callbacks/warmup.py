"""ConfidentRegionWarmup: owns t_c(n), the time below which the teacher is not asked yet (App. A.1)."""

from lightning.pytorch import Callback, LightningModule, Trainer

from freeflow_lightning.callbacks.checks import refuse_second, warn_beyond_end
from freeflow_lightning.flow import check_counts, confident_time
from freeflow_lightning.recipes.flow_map import FlowMapModule
from freeflow_lightning.recipes.freeflow import FreeFlowModule


class ConfidentRegionWarmup(Callback):
    """Sets the module's t_c at each step: linear from 1 to 0. Derived from the step alone, so it
    needs no state.

    Args:
        steps: optimizer steps until t_c = 0.
    """

    def __init__(self, steps: int = 10_000) -> None:  # Table 6
        check_counts(1, steps=steps)
        self.steps = steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if (
            not isinstance(pl_module, FreeFlowModule | FlowMapModule)
            or pl_module.correction_fraction == 1
        ):
            raise ValueError(
                "ConfidentRegionWarmup has no effect here: it belongs to a prediction or a map; "
                "remove it"
            )
        refuse_second(trainer, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        warn_beyond_end(trainer, self, self.steps)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: FreeFlowModule | FlowMapModule,
        batch: object,
        batch_idx: int,
    ) -> None:
        pl_module.t_c = confident_time(trainer.global_step, warmup_steps=self.steps)
