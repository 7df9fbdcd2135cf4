"""AlphaSchedule: owns alpha(n), the correction's strength relative to the prediction (App. A.3)."""

import math

from lightning.pytorch import LightningModule

from freeflow_lightning.callbacks.schedule import StepSchedule
from freeflow_lightning.flow import alpha
from freeflow_lightning.recipes.flow_map import FlowMapModule
from freeflow_lightning.recipes.freeflow import FreeFlowModule


class AlphaSchedule(StepSchedule):
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
        self.delay_steps = delay_steps
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps
        self.alpha_at(0, 1.0)  # refuses settings without a meaning

    @property
    def length(self) -> int:
        return self.delay_steps + self.warmup_steps

    def check(self, module: LightningModule) -> None:
        has_both = (
            isinstance(module, FreeFlowModule | FlowMapModule)
            and 0 < module.correction_fraction < 1
        )
        if not has_both:
            raise ValueError(
                "AlphaSchedule has no effect here: it balances prediction against correction, "
                "and only one of them is on; remove it, or set correction_fraction "
                "(FlowMapModule: correction) between 0 and 1"
            )

    def set_value(self, module: FreeFlowModule | FlowMapModule, step: int) -> None:
        module.alpha = self.alpha_at(step, module.alpha_ref)

    def alpha_at(self, step: int, reference: float) -> float:
        """alpha after so many optimizer steps, for an alpha_ref."""
        return alpha(
            step,
            reference=reference,
            delay_steps=self.delay_steps,
            warmup_steps=self.warmup_steps,
            decay_steps=self.decay_steps,
        )
