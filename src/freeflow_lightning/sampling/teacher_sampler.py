"""TeacherSampler: the teacher draws by solving its ODE."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_numbers, solve
from freeflow_lightning.nets import precision_of
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.teachers import Teacher


@final
@dataclass(frozen=True)
class TeacherSampler(Sampler):
    """Solves the teacher's ODE from noise at time 1 to samples at time 0.

    Args:
        teacher: whose velocity is integrated.
        method: one-step rule, see `flow.solve`.
        steps: of the uniform grid.
        guidance: gamma; 1 draws without guidance.

    Raises:
        ValueError: a guidance below 0.
    """

    teacher: Teacher
    method: str = "heun"
    steps: int = 64
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(0, guidance=self.guidance)

    def __call__(self, z: Tensor, condition: Any) -> Tensor:
        """Return the teacher's samples, [B, ...], of the noise z, [B, ...]."""
        return self._solve(z, condition, trajectory=False)

    def path(self, z: Tensor, condition: Any) -> Tensor:
        """Return all states on the way from the noise z, [steps + 1, B, ...]; the first is z."""
        return self._solve(z, condition, trajectory=True)

    @property
    def name(self) -> str:
        """For example "teacher, 64 heun steps"."""
        return f"teacher, {self.steps} {self.method} steps"

    @property
    def network(self) -> nn.Module:
        """The teacher."""
        return self.teacher

    def settings(self) -> dict[str, Any]:
        """Return how the teacher draws, as JSON."""
        return {"method": self.method, "steps": self.steps, "guidance": self.guidance}

    def _solve(self, z: Tensor, condition: Any, *, trajectory: bool) -> Tensor:
        velocity = self.teacher.guided_velocity(condition, gamma=self.guidance)
        wide = torch.promote_types(z.dtype, precision_of(self.teacher))  # narrower teachers cast
        states = solve(
            lambda x, t, _: velocity(x, t),
            z.to(wide),
            steps=self.steps,
            method=self.method,
            trajectory=trajectory,
        )
        return states.to(z.dtype)
