"""One-step rules (Euler, Heun, midpoint, RK4) and the ODE solver dx = -u dt from the prior (t = 1)
to data (t = 0).
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from freeflow_lightning.flow.checks import check_counts
from freeflow_lightning.flow.interpolant import expand

Velocity = Callable[[Tensor, Tensor], Tensor]
"""u(x, t): [B, ...] and [B] to [B, ...]."""
Rule = Callable[[Velocity, Tensor, Tensor, Tensor], Tensor]
"""Mean velocity of one step: (velocity, x at t, t, t_next) to [B, ...]; x_next = x + (t - t_next) *
mean velocity.
"""
ChordRule = Callable[[Velocity, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Mean velocity of a step of known end: (velocity, x at t, x at t_next, t, t_next) to [B, ...]."""


def euler(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """u(x, t). Order 1, one evaluation."""
    return velocity(x, t)


def heun(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """Mean of u(x, t) and u at the Euler end point (Table 6, "u type"). Order 2, two
    evaluations.
    """
    u = velocity(x, t)
    return (u + velocity(x + expand(t - t_next, x) * u, t_next)) / 2


def midpoint(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """u at the middle of the Euler half step. Order 2, two evaluations."""
    half = (t - t_next) / 2
    return velocity(x + expand(half, x) * velocity(x, t), t - half)


def rk4(velocity: Velocity, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """The classical Runge-Kutta rule. Order 4, four evaluations."""
    h = t - t_next
    step, half, middle = expand(h, x), expand(h / 2, x), t - h / 2
    k1 = velocity(x, t)
    k2 = velocity(x + half * k1, middle)
    k3 = velocity(x + half * k2, middle)
    k4 = velocity(x + step * k3, t_next)
    return (k1 + 2 * k2 + 2 * k3 + k4) / 6


def implicit_midpoint(
    velocity: Velocity,
    x: Tensor,
    x_next: Tensor,
    t: Tensor,
    t_next: Tensor,
) -> Tensor:
    """u at the middle of the chord to a known x_next. Order 2 if that is the end, one
    evaluation.
    """
    return velocity((x + x_next) / 2, (t + t_next) / 2)


RuleName = Literal["euler", "heun", "midpoint", "rk4"]
"""The one-step rules by which a teacher's path can be followed, by name."""
RULES: dict[str, Rule] = {"euler": euler, "heun": heun, "midpoint": midpoint, "rk4": rk4}
CHORD_RULES: dict[str, ChordRule] = {"implicit_midpoint": implicit_midpoint}
EVALUATIONS: dict[str, int] = {
    "euler": 1,
    "heun": 2,
    "midpoint": 2,
    "rk4": 4,
    "implicit_midpoint": 1,
}
"""Velocity evaluations per step of each rule."""


def one_step_rule(method: str | Rule) -> Rule:
    """Look a rule up by name; a callable is a rule already."""
    if callable(method):
        return method
    if method not in RULES:
        raise ValueError(
            f"unknown solver {method!r}: expected one of {sorted(RULES)} or a callable rule"
        )
    return RULES[method]


def chord_rule(method: str | Rule) -> ChordRule:
    """Look a rule for steps of known end up by name; explicit rules fit, and ignore the end."""
    if isinstance(method, str) and method in CHORD_RULES:
        return CHORD_RULES[method]
    if isinstance(method, str) and method not in RULES:
        names = sorted([*RULES, *CHORD_RULES])
        raise ValueError(f"unknown solver {method!r}: expected one of {names} or a callable rule")
    rule = one_step_rule(method)
    return lambda velocity, x, x_next, t, t_next: rule(velocity, x, t, t_next)


def count_evaluations(method: str | Rule) -> int:
    """Velocity evaluations per step of a rule; a rule of one's own counts as one.

    >>> count_evaluations("heun"), count_evaluations("implicit_midpoint")
    (2, 1)
    """
    return EVALUATIONS[method] if isinstance(method, str) else 1


def uniform_grid(steps: int) -> Tensor:
    """1 = t_1 > ... > t_{steps+1} = 0, float64 [steps + 1].

    >>> uniform_grid(2)
    tensor([1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    check_counts(1, steps=steps)
    return torch.arange(steps, -1, -1, dtype=torch.float64) / steps


@torch.no_grad()
def solve(
    velocity: Callable[[Tensor, Tensor, Any], Tensor],
    z: Tensor,
    condition: Any = None,
    *,
    steps: int = 64,
    method: str | Rule = "heun",
    grid: Tensor | None = None,
    trajectory: bool = False,
) -> Tensor:
    r"""Integrate dx = -u(x, t) dt from t = 1 to 0, from noise to a sample (Eqs. 1, 3).

    $$\phi(x_t, t, s) = x_t - \int_t^s u(x_\tau, \tau)\, d\tau$$

    Args:
        velocity: u(x, t, condition), x [B, ...], t [B] in [0, 1] with 1 = prior, to [B, ...] (prior
            to data).
        z: prior noise, [B, ...].
        condition: passed on to `velocity` unchanged.
        steps: number of steps of the uniform grid; not used where `grid` is given.
        method: "euler", "heun", "midpoint", "rk4" or a rule of one's own.
        grid: decreasing times, [steps + 1], to integrate over instead, for example a pipeline's
            own.
        trajectory: return every state, [steps + 1, B, ...], instead of the last one.

    Returns:
        [B, ...], or [steps + 1, B, ...] with `trajectory`.

    Raises:
        ValueError: an unknown method, fewer than one step, a grid that does not decrease.

    >>> solve(lambda x, t, condition: -x, torch.ones(1, 1), steps=1000)  # exp(-1)
    tensor([[0.3679]])
    """
    rule = one_step_rule(method)
    grid = uniform_grid(steps) if grid is None else grid
    is_grid = grid.ndim == 1 and len(grid) > 1 and bool((grid.diff() < 0).all())
    if not is_grid or not bool(torch.isfinite(grid).all()):
        raise ValueError(
            f"expected a grid of at least two strictly decreasing finite times, got {grid.tolist()}"
        )
    times = grid.to(device=z.device, dtype=torch.promote_types(z.dtype, torch.float32))
    x, states = z, [z]
    for i in range(len(times) - 1):
        t, t_next = times[i].expand(len(z)), times[i + 1].expand(len(z))
        x = x + expand(t - t_next, x) * rule(lambda y, s: velocity(y, s, condition), x, t, t_next)
        if trajectory:
            states.append(x)
    return torch.stack(states) if trajectory else x
