"""TangentWarmup: owns r(n), the share of an Eulerian form's tangent (AYF-EMD, sCD)."""

from lightning.pytorch import LightningModule

from freeflow_lightning.callbacks.schedule import StepSchedule
from freeflow_lightning.flow import check_counts, tangent_share
from freeflow_lightning.objectives import Eulerian
from freeflow_lightning.recipes.flow_map import FlowMapModule


class TangentWarmup(StepSchedule):
    """Sets the module's tangent_share at each step: linear from 0 to 1.

    The share counts relative to the `tangent` of the form, which is its highest. Derived from the
    step alone, so it needs no state.

    Args:
        steps: optimizer steps until the tangent is whole.
    """

    def __init__(self, steps: int = 10_000) -> None:
        check_counts(1, steps=steps)
        self.steps = steps

    @property
    def length(self) -> int:
        return self.steps

    def check(self, module: LightningModule) -> None:
        has_tangent = isinstance(module, FlowMapModule) and isinstance(module.objective, Eulerian)
        if not has_tangent:
            raise ValueError(
                "TangentWarmup has no effect here: it belongs to a FlowMapModule with the "
                "objective Eulerian; remove it"
            )

    def set_value(self, module: FlowMapModule, step: int) -> None:
        module.tangent_share = tangent_share(step, warmup_steps=self.steps)
