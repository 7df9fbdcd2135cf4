"""Fine-tuning by a reward: posterior flows of the tilted law p(x0) exp r(x0), off policy."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from freeflow_lightning.flow import (
    Velocity,
    check_counts,
    check_numbers,
    expand,
    merge_copies,
    sample_posterior,
)
from freeflow_lightning.objectives import Residual, residual


@dataclass(frozen=True)
class Tilt:
    """What a posterior flow is tilted by.

    Args:
        reward: (samples, condition) -> scores [B], of the teacher's own states [B, *sample_shape];
            no gradient of it is taken.
        strength: r is the score times this.
        offset: r is less by this: about the best score times strength keeps exp r below 1.
        steps: of each rollout of the teacher's posterior, by Heun's rule: 2 evaluations each.
    """

    reward: Callable[[Tensor, Any], Tensor]
    strength: float = 1.0
    offset: float = 0.0
    steps: int = 4

    def __post_init__(self) -> None:
        check_numbers(0, strength=self.strength)
        check_numbers(-math.inf, offset=self.offset)
        check_counts(1, steps=self.steps)

    @property
    def teacher_evaluations(self) -> int:
        """Evaluations of u for one draw."""
        return 2 * self.steps

    @torch.no_grad()
    def residual(
        self,
        output: Tensor,
        u: Velocity,
        e: Tensor,
        y: Tensor,
        s: Tensor,
        x: Tensor,
        t: Tensor,
        condition: Any,
    ) -> Residual:
        r"""exp r(x0) (V - (x0 - y) / s) with one draw x0 of the teacher's p(x0 | y_s = y, x_t = x).

        Its mean is 0 where V is the inner velocity of the tilted posterior,
        $E[e^r x_0] / E[e^r] - y$ over s, whatever the law of y and x: at t = 1 that is
        u + s/(1-s) grad log E[exp r(x0) | y_s = y].

        Args:
            output: V(y, s, s; x, t) with its gradient, [B, ...].
            u: the teacher's velocity.
            e: noise of the draws, [B, ...].
            y: inner states at s, [B, ...].
            s: inner times in (0, 1], [B].
            x: the states that are conditioned on, [B, ...].
            t: their times in [0, 1], [B].
            condition: of each row.
        """
        one = merge_copies(y, s, x, t)
        x0 = sample_posterior(u, e.to(one.x.dtype), one.x, one.t, steps=self.steps)
        r = self.strength * self.reward(x0, condition) - self.offset
        error = output - (x0 - y) / expand(s, y)
        return residual(output, expand(r.exp(), y) * error)
