"""TurnTaking: a student that moves at every k-th step, beside an auxiliary network that learns at
all.
"""

from collections.abc import Mapping

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.training.data import PriorBatch


class TurnTaking(Distillation):
    """A recipe with an auxiliary network that may be updated several times for one update of the
    student.

    The student follows what the auxiliary says of its samples; where it moves faster than the
    auxiliary learns, it runs away from the teacher.
    """

    auxiliary_updates: int = 1
    """Updates of the auxiliary network for one of the student."""

    moves_student: bool = True
    """Whether this step updates the student too; the trainer's step says it in a run."""

    @property
    def steady_steps(self) -> range:
        return range(self.auxiliary_updates)

    def begin_step(self, step: int) -> None:
        self.moves_student = (step + 1) % self.auxiliary_updates == 0

    @property
    def resting(self) -> nn.Module | None:
        return None if self.moves_student else self.student

    def training_step(self, batch: PriorBatch, batch_idx: int) -> Tensor:
        """Add 0 of every weight that rests, where DDP waits for its gradient."""
        loss = super().training_step(batch, batch_idx)
        if self.resting is None or not isinstance(self.trainer.strategy, DDPStrategy):
            return loss
        weights = [p for p in self.resting.parameters() if p.requires_grad]
        return loss + 0 * torch.stack([weight.flatten()[0] for weight in weights]).sum()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take those gradients away: Adam's memory would move the weights, and count the step."""
        if self.resting is not None:
            self.resting.zero_grad()

    def mean_over_turn(
        self, both: Mapping[str, float], alone: Mapping[str, float]
    ) -> dict[str, float]:
        """Return the mean of a figure by network over a turn.

        Args:
            both: of the step that moves both networks.
            alone: of each of the others, which move the auxiliary network alone.
        """
        rests = {name: alone.get(name, 0.0) for name in both}
        return {
            name: rests[name] + (value - rests[name]) / self.auxiliary_updates
            for name, value in both.items()
        }
