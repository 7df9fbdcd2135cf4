"""Draws of p(x0 | x_t) by a student that takes a second state (Meta Flow Maps)."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import (
    Pairs,
    Trained,
    check_counts,
    check_numbers,
    even_starts,
    flow_map,
    indexed_noise,
    uniform_grid,
)
from freeflow_lightning.nets import SplitConditioned, StateConditioned, precision_of


def inner_noise(n: int, rows: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """N(0, I) noise [n, rows, *shape]; draw i of row b is a function of (seed, b, i) alone."""
    index = torch.arange(n)
    streams = [f"posterior {row}" for row in range(rows)]
    return torch.stack([indexed_noise(index, shape, seed=seed, stream=s) for s in streams], 1)


def check_draws_posteriors(network: nn.Module) -> None:
    """Refuse a network that takes no second state (ValueError)."""
    if not isinstance(network, StateConditioned):
        raise ValueError(
            "this student maps noise to samples and takes no second state: posterior draws need "
            "one that PosteriorModule has trained"
        )


def check_inner_steps(trained: Trained, steps: int) -> None:
    """Refuse inner steps that a student was not trained for (ValueError)."""
    check_counts(1, steps=steps)
    if steps > 1 and trained.pairs is Pairs.POSTERIORS_TO_DATA:
        raise ValueError(
            f"this student's posterior draws were trained to data alone: expected steps 1, got "
            f"{steps}"
        )
    if trained.starts_of(steps) != even_starts(steps):
        raise ValueError(
            f"this student's posterior draws were trained at the times "
            f"{list(trained.starts or ())} alone: expected steps whose even times are among them, got {steps}"
        )


def draw_end(
    network: nn.Module, e: Tensor, x: Tensor, t: Tensor, condition: Any, gamma: Tensor
) -> Tensor:
    """Return one draw of p(x0 | x_t = x) for each row, [B, ...], as a sampler of several steps
    takes it.

    Args:
        network: of PosteriorModule, in one inner step, or of TransitionModule, in its head's.
        e: inner noise, [B, ...].
        x: the states, [B, ...].
        t: their times, [B].
        condition: of each row, as the network takes it.
        gamma: guidance scales, [B].
    """
    if not isinstance(network, SplitConditioned):
        return draw_posterior(network, e, x, t, condition, gamma, 1)
    dtype = precision_of(network)
    Y = network(x.to(dtype), t, condition, e=e, delta=t, gamma=gamma)
    return flow_map(x, Y.to(x.dtype), t)


def draw_posterior(
    network: nn.Module,
    e: Tensor,
    x: Tensor,
    t: float | Tensor,
    condition: Any,
    gamma: float | Tensor,
    steps: int,
) -> Tensor:
    """Draws y_0 [B, ...] of p(x0 | x_t = x), along a uniform grid of inner times from noise e.

    It has a gradient in x, where there is a graph.

    Args:
        network: V(y, s, condition, state=, t_state=, delta=, gamma=).
        e: inner noise, [B, ...].
        x: the states, [B, ...].
        t: their time in [0, 1], or times [B].
        condition: of each row, as the network takes it.
        gamma: guidance scale, or scales [B].
        steps: evaluations of the network.

    Raises:
        ValueError: a network that takes no second state, or settings that cannot be meant.
    """
    check_draws_posteriors(network)
    check_counts(1, steps=steps)
    if not isinstance(t, Tensor):
        check_numbers(0, 1, t=t)
    dtype = precision_of(network)
    y, state = e.float(), x.to(dtype)
    one = torch.ones(e.shape[0], device=e.device)
    scale, t_state = one * gamma, one * t
    for s, r in pairwise(uniform_grid(steps).tolist()):
        times, delta = one * s, one * (s - r)
        average = network(
            y.to(dtype),
            times.to(dtype),
            condition,
            state=state,
            t_state=t_state.to(dtype),
            delta=delta,
            gamma=scale,
        )
        y = flow_map(y, average.float(), delta)
    return y
