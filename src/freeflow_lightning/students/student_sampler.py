"""StudentSampler: a student draws in one evaluation of its network."""

from typing import Any, final

from torch import Tensor, nn

from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.students.flow_map import FlowMap


@final
class StudentSampler(Sampler):
    """Evaluates a student's flow map from noise to samples, at one guidance.

    Args:
        flow_map: the student.
        guidance: gamma; a warning names the trained range if it is left.
        steps: evaluations per sample: see `FlowMap.chain`.

    Raises:
        ValueError: a guidance below 0, or more steps than the student was trained for.
    """

    def __init__(self, flow_map: FlowMap, guidance: float, steps: int = 1) -> None:
        flow_map.check_guidance(guidance)
        flow_map.check_steps(steps)
        self.flow_map = flow_map
        self.teacher = flow_map.teacher
        self.guidance = guidance
        self.steps = steps

    def __call__(self, z: Tensor, condition: Any) -> Tensor:
        """Return the student's samples, [B, ...], of the noise z, [B, ...]."""
        return self.flow_map.chain(z, condition, self.guidance, steps=self.steps)

    @property
    def name(self) -> str:
        """In words, for a table."""
        return "student, 1 step" if self.steps == 1 else f"student, {self.steps} steps"

    @property
    def network(self) -> nn.Module:
        """The student's network."""
        return self.flow_map.network
