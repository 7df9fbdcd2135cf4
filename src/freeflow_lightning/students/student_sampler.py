"""StudentSampler: a student draws in one evaluation of its network, or in a few."""

from typing import Any, final

from torch import Tensor, nn

from freeflow_lightning.flow.pairs import SamplerName
from freeflow_lightning.sampling.jumps import Jumps
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.students.flow_map import FlowMap


@final
class StudentSampler(Sampler):
    """Evaluates a student's flow map from noise to samples, at one guidance.

    Args:
        flow_map: the student.
        guidance: gamma; a warning names the trained range if it is left.
        steps: evaluations per sample.
        sampler: of more steps than one: see `Jumps`.
        noise_share: of the sampler "gamma".

    Raises:
        ValueError: a guidance below 0, or steps that the student was not trained for.
    """

    def __init__(
        self,
        flow_map: FlowMap,
        guidance: float,
        steps: int = 1,
        sampler: SamplerName = "chain",
        noise_share: float | None = None,
    ) -> None:
        flow_map.check_guidance(guidance)
        self.jumps = Jumps(steps, sampler, noise_share).at_trained_times(flow_map.trained)
        self.flow_map = flow_map
        self.teacher = flow_map.teacher
        self.guidance = guidance

    def __call__(self, z: Tensor, condition: Any) -> Tensor:
        """Return the student's samples, [B, ...], of the noise z, [B, ...]."""
        return self.flow_map.jump(z, condition, self.guidance, self.jumps)

    @property
    def name(self) -> str:
        """In words, for a table: for example "student, 4 steps"."""
        return f"student, {self.jumps.name}"

    @property
    def network(self) -> nn.Module:
        """The student's network."""
        return self.flow_map.network

    @property
    def evaluations(self) -> int:
        return self.jumps.steps

    def facts(self) -> dict[str, Any]:
        """Return all that the samples depend on beside noise and condition, as JSON."""
        return super().facts() | self.jumps.facts()
