"""ConfidentRegionWarmup: owns t_c(n), the time below which the teacher is not asked yet (App.
A.1).
"""

from lightning.pytorch import LightningModule

from freeflow_lightning.callbacks.schedule import StepSchedule
from freeflow_lightning.flow import check_counts, confident_time
from freeflow_lightning.recipes.flow_map import FlowMapModule
from freeflow_lightning.recipes.freeflow import FreeFlowModule


class ConfidentRegionWarmup(StepSchedule):
    """Sets the module's t_c at each step: linear from 1 to 0. Derived from the step alone, so it
    needs no state.

    Args:
        steps: optimizer steps until t_c = 0.
    """

    def __init__(self, steps: int = 10_000) -> None:  # Table 6
        check_counts(1, steps=steps)
        self.steps = steps

    @property
    def length(self) -> int:
        return self.steps

    def check(self, module: LightningModule) -> None:
        has_prediction = (
            isinstance(module, FreeFlowModule | FlowMapModule) and module.correction_fraction < 1
        )
        if not has_prediction:
            raise ValueError(
                "ConfidentRegionWarmup has no effect here: it belongs to a prediction or a map; "
                "remove it"
            )

    def set_value(self, module: FreeFlowModule | FlowMapModule, step: int) -> None:
        module.t_c = confident_time(step, warmup_steps=self.steps)
