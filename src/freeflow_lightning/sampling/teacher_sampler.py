"""TeacherSampler: the teacher draws by solving its ODE."""

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from freeflow_lightning.flow import solve
from freeflow_lightning.sampling.sampler import SolvedSampler


@final
@dataclass(frozen=True)
class TeacherSampler(SolvedSampler):
    """Solves the teacher's ODE from noise at time 1 to samples at time 0.

    Args:
        teacher: whose velocity is integrated.
        method: one-step rule, see `flow.solve`.
        steps: of the uniform grid.
        guidance: gamma; 1 draws without guidance.

    Raises:
        ValueError: a guidance below 0.
    """

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

    def _solve(self, z: Tensor, condition: Any, *, trajectory: bool) -> Tensor:
        velocity = self.teacher.guided_velocity(condition, gamma=self.guidance)
        states = solve(
            lambda x, t, _: velocity(x, t),
            self.widen(z),
            steps=self.steps,
            method=self.method,
            trajectory=trajectory,
        )
        return states.to(z.dtype)
