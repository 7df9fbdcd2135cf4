"""LaterStarts: owns the share of the corrected maps that start after the prior."""

from lightning.pytorch import LightningModule

from freeflow_lightning.callbacks.schedule import StepSchedule
from freeflow_lightning.flow import check_counts, later_share
from freeflow_lightning.recipes.flow_map import FlowMapModule


class LaterStarts(StepSchedule):
    """Sets the module's later_share at each step: 0, then linear to 1.

    One step of the student is corrected alone first, and the maps that start later, from the law
    `Correction.starts`, once it draws well. Derived from the step alone, so it needs no state.

    Args:
        delay_steps: optimizer steps in which all corrected maps start at the prior.
        warmup_steps: steps of the linear rise after them.
    """

    def __init__(self, delay_steps: int, warmup_steps: int = 0) -> None:
        check_counts(0, delay_steps=delay_steps, warmup_steps=warmup_steps)
        self.delay_steps = delay_steps
        self.warmup_steps = warmup_steps

    @property
    def length(self) -> int:
        return self.delay_steps + self.warmup_steps

    def check(self, module: LightningModule) -> None:
        correction = module.correction if isinstance(module, FlowMapModule) else None
        if correction is None or correction.starts is None:
            raise ValueError(
                "LaterStarts has no effect here: it belongs to a FlowMapModule whose correction "
                "has `starts`; remove it, or give the law of the starts"
            )

    def set_value(self, module: FlowMapModule, step: int) -> None:
        module.later_share = later_share(
            step, delay_steps=self.delay_steps, warmup_steps=self.warmup_steps
        )
