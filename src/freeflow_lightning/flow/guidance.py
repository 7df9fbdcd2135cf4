"""Classifier-free guidance: the one place where a conditional and an unconditional velocity
meet.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.flow.conditions import join, take
from freeflow_lightning.flow.interpolant import expand
from freeflow_lightning.flow.rows import spread


class Guidance(NamedTuple):
    """How much guidance is in force, and where.

    Args:
        gamma: guidance scale, [B]; 1 is no guidance.
        interval: times [lo, hi] inside which it applies.
        rows: samples that it changes, int64 [K], where they are known: the others need no
            unconditional velocity.
    """

    gamma: Tensor
    interval: tuple[float, float] = (0.0, 1.0)
    rows: Tensor | None = None


def interval_guidance(gamma: Tensor, t: Tensor, interval: tuple[float, float]) -> Tensor:
    """The guidance in force at t: gamma inside [lo, hi], 1 (none) outside (Table 1c, Table 6
    "guidance interval").

    >>> interval_guidance(torch.tensor([2.0, 2.0]), torch.tensor([0.3, 0.5]), (0.0, 0.4))
    tensor([2., 1.])
    """
    lo, hi = interval
    return torch.where((t >= lo) & (t <= hi), gamma, 1.0)


def guided_rows(gamma: Tensor, t: Tensor, interval: tuple[float, float]) -> Tensor:
    """Where the guidance in force is not 1, bool [B]: the other samples need no unconditional
    velocity.

    >>> guided_rows(torch.tensor([2.0, 2.0, 1.0]), torch.tensor([0.3, 0.5, 0.3]), (0.0, 0.4))
    tensor([ True, False, False])
    """
    return interval_guidance(gamma, t, interval) != 1


def guide(
    conditional: Tensor,
    unconditional: Tensor,
    t: Tensor,
    gamma: Tensor,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """u_gamma = gamma u_c + (1 - gamma) u_null of two velocities [B, ...] at t [B], in float32 or
    wider; gamma [B].

    u_null may be any guiding velocity: a weaker network's is autoguidance. Where it is u_c, so is
    the result.

    >>> guide(torch.tensor([3.0]), torch.tensor([1.0]), torch.ones(1), torch.tensor([2.0]))
    tensor([5.])
    """
    wide = torch.promote_types(conditional.dtype, torch.float32)  # bfloat16 would round gamma
    conditional = conditional.to(wide)
    scale = expand(interval_guidance(gamma, t, interval), conditional).to(wide)
    return torch.lerp(unconditional.to(wide), conditional, scale)


def guided_velocity(
    velocity: Callable[[Tensor, Tensor, Any], Tensor],
    x: Tensor,
    t: Tensor,
    condition: Any,
    *,
    null: Any,
    gamma: Tensor,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: Callable[[Tensor, Tensor], Tensor] | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    r"""The guided velocity, its two terms from one call on twice the batch (Sec. 4.1).

    $$u_\gamma(x, t \mid c) = \gamma\, u(x, t \mid c) + (1 - \gamma)\, u(x, t \mid \emptyset)$$

    Args:
        velocity: u(x, t, condition).
        x: states, [B, ...].
        t: times in [0, 1], [B].
        condition: a tensor or a tree of tensors with the batch first.
        null: the condition that means "no condition", same structure.
        gamma: guidance scale, [B]; 1 is no guidance.
        interval: times [lo, hi] inside which guidance applies.
        rescale: (guided, conditional) to the velocity instead, for a pipeline whose guidance is not
            linear.
        rows: the samples that guidance changes, int64 [K]: the others are given no unconditional
            branch; all if not given.

    >>> u = lambda x, t, c: c.float()
    >>> one = torch.ones(1)
    >>> guided_velocity(u, one, one, torch.tensor([3]), null=torch.tensor([1]), gamma=torch.tensor([2.0]))
    tensor([5.])
    """
    x_null, t_null, null = take((x, t, null), rows)
    both = velocity(torch.cat([x, x_null]), torch.cat([t, t_null]), join(condition, null))
    conditional, some = both.tensor_split([len(x)])
    guided = guide(conditional, spread(some, rows, conditional), t, gamma, interval)
    return guided if rescale is None else rescale(guided, conditional)
