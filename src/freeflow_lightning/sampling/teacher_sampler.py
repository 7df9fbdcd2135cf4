"""How the teacher draws: its ODE, solved."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow import check_numbers, solve
from freeflow_lightning.nets import precision_of
from freeflow_lightning.teachers import Teacher


class Sampler(NamedTuple):
    """How the teacher draws: one-step rule, steps of the uniform grid, guidance."""

    method: str = "heun"
    steps: int = 64
    guidance: float = 1.0

    def __call__(self, teacher: Teacher, z: Tensor, condition: Any, *, trajectory: bool = False) -> Tensor:
        """The teacher's samples for the noise z [B, ...] (all states, [steps + 1, B, ...], with `trajectory`)."""
        check_numbers(0, guidance=self.guidance)
        u = teacher.guided_velocity(condition, gamma=self.guidance)
        wide = torch.promote_types(z.dtype, precision_of(teacher))  # teachers of narrower weights cast
        return solve(
            lambda x, t, _: u(x, t),
            z.to(wide),
            steps=self.steps,
            method=self.method,
            trajectory=trajectory,
        ).to(z.dtype)
