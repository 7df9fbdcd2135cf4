"""TangentWarmup: owns r(n), the share of an Eulerian form's tangent (AYF-EMD, sCD)."""

from lightning.pytorch import Callback, LightningModule, Trainer

from freeflow_lightning.callbacks.checks import refuse_second, warn_beyond_end
from freeflow_lightning.flow import check_counts, tangent_share
from freeflow_lightning.objectives import Eulerian
from freeflow_lightning.recipes.flow_map import FlowMapModule


class TangentWarmup(Callback):
    """Sets the module's tangent_share at each step: linear from 0 to 1.

    The share counts relative to the `tangent` of the form, which is its highest. Derived from the
    step alone, so it needs no state.

    Args:
        steps: optimizer steps until the tangent is whole.
    """

    def __init__(self, steps: int = 10_000) -> None:
        check_counts(1, steps=steps)
        self.steps = steps

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        has_tangent = isinstance(pl_module, FlowMapModule) and isinstance(
            pl_module.objective, Eulerian
        )
        if not has_tangent:
            raise ValueError(
                "TangentWarmup has no effect here: it belongs to a FlowMapModule with the "
                "objective Eulerian; remove it"
            )
        refuse_second(trainer, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        warn_beyond_end(trainer, self, self.steps)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: FlowMapModule,
        batch: object,
        batch_idx: int,
    ) -> None:
        pl_module.tangent_share = tangent_share(trainer.global_step, warmup_steps=self.steps)
