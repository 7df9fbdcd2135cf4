"""TeacherPosterior: draws of p(x0 | x_t) from any velocity, without training, by GLASS."""

import warnings
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import check_counts, check_numbers, one_step_rule, sample_posterior
from freeflow_lightning.nets import precision_of
from freeflow_lightning.sampling.noised_states import Observed
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.teachers import Teacher


@final
@dataclass(frozen=True)
class TeacherPosterior(Sampler):
    """Solves the inner flow of a posterior from noise to draws of p(x0 | x_t): `sample_posterior`.

    Args:
        teacher: whose velocity is asked, once for each evaluation of the one-step rule.
        method: one-step rule, see `flow.solve`.
        steps: of the inner flow.
        guidance: gamma; 1 draws the posterior itself. A guided velocity has a flow too, whose draws
            are of no posterior: a warning says so.

    Raises:
        ValueError: a guidance below 0, no steps, or an unknown rule.
    """

    teacher: Teacher
    method: str = "heun"
    steps: int = 64
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(0, guidance=self.guidance)
        check_counts(1, steps=self.steps)
        one_step_rule(self.method)
        if self.guidance != 1:
            warnings.warn(
                f"draws at guidance {self.guidance:g} are of no posterior: guidance 1 draws "
                "p(x0 | x_t)",
                stacklevel=3,
            )

    @torch.no_grad()
    def __call__(self, z: Tensor, condition: Observed) -> Tensor:
        """Return one draw for each row, [B, ...], from inner noise z [B, ...] and what was seen."""
        given, x, t = condition
        velocity = self.teacher.guided_velocity(given, gamma=self.guidance)
        wide = torch.promote_types(z.dtype, precision_of(self.teacher))
        drawn = sample_posterior(
            velocity, z.to(wide), x.to(wide), t.to(wide), steps=self.steps, method=self.method
        )
        return drawn.to(z.dtype)

    @property
    def name(self) -> str:
        """For example "teacher's posterior, 64 heun steps"."""
        return f"teacher's posterior, {self.steps} {self.method} steps"

    @property
    def network(self) -> nn.Module:
        """The teacher."""
        return self.teacher

    def settings(self) -> dict[str, Any]:
        """Return how the teacher draws, as JSON."""
        return {"method": self.method, "steps": self.steps, "guidance": self.guidance}
