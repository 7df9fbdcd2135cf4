"""TeacherPosterior: draws of p(x0 | x_t) from any velocity, without training, by GLASS."""

import warnings
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from freeflow_lightning.flow import check_counts, one_step_rule, sample_posterior
from freeflow_lightning.sampling.noised_states import Observed
from freeflow_lightning.sampling.sampler import SolvedSampler


@final
@dataclass(frozen=True)
class TeacherPosterior(SolvedSampler):
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

    def __post_init__(self) -> None:
        super().__post_init__()
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
        e = self.widen(z)
        drawn = sample_posterior(
            velocity, e, x.to(e.dtype), t.to(e.dtype), steps=self.steps, method=self.method
        )
        return drawn.to(z.dtype)

    @property
    def name(self) -> str:
        """For example "teacher's posterior, 64 heun steps"."""
        return f"teacher's posterior, {self.steps} {self.method} steps"
