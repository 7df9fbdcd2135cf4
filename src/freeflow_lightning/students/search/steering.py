"""Steering: a path from noise to data whose velocity is tilted by the value of what may come of it.

The value of a state is V(x, t) = log E[exp r(x0) | x_t = x] for a reward r. Along u + t/(1-t) grad V
the samples have the law p(x0) exp r(x0), normalised. Posterior draws of a Meta Flow Map estimate it
(arXiv 2601.14430), a few of them at each step.
"""

from itertools import pairwise
from typing import Literal, Protocol, final

from torch import Tensor

from freeflow_lightning.flow import check_counts, check_numbers, uniform_grid
from freeflow_lightning.students.search.algorithms import BestNoise, SearchContext

SteerBy = Literal["weights", "gradient"]


class SteeringContext(SearchContext, Protocol):
    """What steering may ask for beside: draws of the student's posteriors."""

    def posterior(self, x: Tensor, t: float, numbers: range) -> Tensor:
        """Draws of p(x0 | x_t = x), [len(numbers) * G, ...], one evaluation of the student each.

        Args:
            x: a state of each sample, [G, ...].
            t: their time.
            numbers: of the inner noises.
        """

    def posterior_gradient(self, x: Tensor, t: float, numbers: range) -> tuple[Tensor, Tensor]:
        """Scores [len(numbers) * G] of such draws, and their gradients with respect to x."""


@final
class Steering:
    """A steered path for each sample, in Euler steps with a few posterior draws each.

    By weights, without a gradient: u + (E_w[x0] - E[x0]) / t, with w = softmax r over the draws. By
    the gradient: u + t/(1-t) grad V with V = log mean exp r over the draws; at t = 1, where a
    state tells nothing of x0, by weights. Few draws tilt less than exp r.

    Args:
        candidates: the student's posterior draws per sample in all.
        draws: of them at each step; so there are candidates / draws steps.
        strength: the reward r is the verifier's score times this.
        steer_by: "weights", or "gradient" where the verifier has one.

    Raises:
        ValueError: draws that do not divide the candidates, or fewer than two.
    """

    def __init__(
        self,
        candidates: int = 64,
        draws: int = 4,
        strength: float = 1.0,
        steer_by: SteerBy = "weights",
    ) -> None:
        check_counts(2, draws=draws)
        check_counts(1, candidates=candidates)
        check_numbers(0, strength=strength)
        if candidates % draws:
            raise ValueError(
                f"expected as many draws at each step, got {candidates} candidates by {draws}"
            )
        if steer_by not in ("weights", "gradient"):
            raise ValueError(f"expected steer_by weights or gradient, got {steer_by!r}")
        self.candidates = candidates
        self.draws = draws
        self.strength = strength
        self.steer_by = steer_by

    def __call__(self, context: SteeringContext) -> BestNoise:
        x = context.noise(range(1))
        numbers = range(1, 1)
        for t, t_next in pairwise(uniform_grid(self.candidates // self.draws).tolist()):
            numbers = range(numbers.stop, numbers.stop + self.draws)
            by_weights = self.steer_by == "weights" or t == 1
            shift = self.shift_by_weights if by_weights else self.shift_by_gradient
            end = context.predict_end(x, t) + shift(context, x, t, numbers)
            x = x + (t - t_next) / t * (end - x)
        return BestNoise(0.0, x, x, context.score(x))

    def shift_by_weights(
        self, context: SteeringContext, x: Tensor, t: float, numbers: range
    ) -> Tensor:
        """E_w[x0] - E[x0] over the draws, [G, ...]."""
        x0 = context.posterior(x, t, numbers)
        w = self._weights(context, context.score(x0))
        return _weighted_mean(w - 1 / self.draws, x0)

    def shift_by_gradient(
        self, context: SteeringContext, x: Tensor, t: float, numbers: range
    ) -> Tensor:
        """t^2/(1-t) grad V, [G, ...]: the softmax's mean of the draws' own gradients."""
        score, gradient = context.posterior_gradient(x, t, numbers)
        w = self._weights(context, score)
        return t**2 / (1 - t) * self.strength * _weighted_mean(w, gradient)

    def _weights(self, context: SteeringContext, score: Tensor) -> Tensor:
        """softmax r over each sample's draws, [draws, G]."""
        return (self.strength * score).view(self.draws, context.samples).softmax(0)


def _weighted_mean(w: Tensor, x: Tensor) -> Tensor:
    """Sum of w_k x_k over draws: w [K, G], x [K * G, ...] to [G, ...]."""
    x = x.unflatten(0, w.shape)
    return (w.view(*w.shape, *[1] * (x.ndim - 2)) * x).sum(0)
