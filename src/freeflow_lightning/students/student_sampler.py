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

    Raises:
        ValueError: a guidance below 0.
    """

    def __init__(self, flow_map: FlowMap, guidance: float) -> None:
        flow_map.check_guidance(guidance)
        self.flow_map = flow_map
        self.teacher = flow_map.teacher
        self.guidance = guidance

    def __call__(self, z: Tensor, condition: Any) -> Tensor:
        """Return the student's samples, [B, ...], of the noise z, [B, ...]."""
        return self.flow_map(z, condition, self.guidance)

    @property
    def name(self) -> str:
        """In words, for a table."""
        return "student, 1 step"

    @property
    def network(self) -> nn.Module:
        """The student's network."""
        return self.flow_map.network
