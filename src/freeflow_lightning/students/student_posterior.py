"""StudentPosterior: a Meta Flow Map draws of p(x0 | x_t) in one evaluation, or a few."""

from typing import final

import torch
from torch import Tensor, nn

from freeflow_lightning.sampling.noised_states import Observed
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.posterior_draws import (
    check_draws_posteriors,
    check_inner_steps,
    draw_posterior,
)


@final
class StudentPosterior(Sampler):
    """Draws from the posteriors of noised states with a student of PosteriorModule.

    Args:
        flow_map: the student.
        guidance: gamma that the student is asked at; a warning names the trained range if it is
            left.
        steps: evaluations per draw.

    Raises:
        ValueError: a student that takes no noised state, steps that it was not trained for, or a
            guidance below 0.
    """

    def __init__(self, flow_map: FlowMap, guidance: float, steps: int = 1) -> None:
        check_draws_posteriors(flow_map.network)
        check_inner_steps(flow_map.trained, steps)
        flow_map.check_guidance(guidance)
        self.flow_map = flow_map
        self.teacher = flow_map.teacher
        self.guidance = guidance
        self.steps = steps

    @torch.no_grad()
    def __call__(self, z: Tensor, condition: Observed) -> Tensor:
        """Return one draw for each row, [B, ...], from inner noise z [B, ...] and what was seen."""
        given, x, t = condition
        network = self.flow_map.network
        return draw_posterior(network, z, x, t, given, self.guidance, self.steps)

    @property
    def name(self) -> str:
        """For example "student's posterior, 4 steps"."""
        return f"student's posterior, {self.steps} step{'s' if self.steps > 1 else ''}"

    @property
    def network(self) -> nn.Module:
        """The student's network."""
        return self.flow_map.network

    @property
    def evaluations(self) -> int:
        return self.steps
