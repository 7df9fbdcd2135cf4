"""FinalCorrection: owns how far the correction leads, and how often the auxiliary network learns."""

from lightning.pytorch import LightningModule

from freeflow_lightning.callbacks.schedule import StepSchedule
from freeflow_lightning.flow import check_counts, check_numbers
from freeflow_lightning.recipes.flow_map import FlowMapModule
from freeflow_lightning.recipes.freeflow import FreeFlowModule


class FinalCorrection(StepSchedule):
    """Lets the correction lead from a step on: alpha becomes `lead` times as large, and the
    auxiliary network learns several times for each step of the student.

    Prediction teaches a student fast, and leaves blends of what it cannot tell apart. A correction
    that leads removes them, if the auxiliary network keeps up with the student (Sec. 5.2, App.
    A.2). Derived from the step alone, so it needs no state.

    Args:
        delay_steps: optimizer steps before it begins.
        lead: factor on alpha from then on; by the default one the other objective hardly counts. A
            correction that is alone (correction_fraction 1) has no alpha, and turns are all it gets.
        auxiliary_updates: updates of the auxiliary network for one of the student from then on.
            Each of the others takes the whole batch, and leaves the student as it is.
    """

    def __init__(self, delay_steps: int, lead: float = 1e4, auxiliary_updates: int = 5) -> None:
        check_counts(0, delay_steps=delay_steps)
        check_numbers(1, lead=lead)
        check_counts(1, auxiliary_updates=auxiliary_updates)
        self.delay_steps = delay_steps
        self.lead = lead
        self.auxiliary_updates = auxiliary_updates

    @property
    def length(self) -> int:
        return self.delay_steps

    def check(self, module: LightningModule) -> None:
        has_correction = (
            isinstance(module, FreeFlowModule | FlowMapModule) and module.correction_fraction > 0
        )
        if not has_correction:
            raise ValueError(
                "FinalCorrection has no effect here: it belongs to a FreeFlowModule, or a "
                "FlowMapModule with a `correction`; remove it, or correct a share of the batch"
            )

    def set_value(self, module: FreeFlowModule | FlowMapModule, step: int) -> None:
        begun = step >= self.delay_steps
        module.lead = self.lead if begun else 1.0
        module.auxiliary_updates = self.auxiliary_updates if begun else 1
