"""The derivative of an average velocity F(x, t, delta) along one line, in one of three ways."""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from freeflow_lightning.flow.checks import check_numbers
from freeflow_lightning.flow.flash_jvp import FlashAttention, check_flash
from freeflow_lightning.flow.flow_map import AverageVelocity, TwoTimeVelocity
from freeflow_lightning.flow.forward_mode import forward_mode
from freeflow_lightning.flow.interpolant import expand

Point = tuple[Tensor, Tensor, Tensor]
"""A place (x, t, delta) where F is asked: [B, ...], [B] and [B] with 0 <= delta <= t <= 1."""
Tangent = tuple[Tensor | None, float, float]
"""The rates at which x [B, ...] (None: x is held), t and delta move along a line."""
ALONG_DELTA: Tangent = (None, 0.0, 1.0)
"""x and t are held: the partial derivative dF/d(delta) = -dF/ds of the Lagrangian forms."""


class Derivative(ABC):
    """A way to differentiate F along a line; called, it gives the partial derivative in delta."""

    evaluations = 2
    """Evaluations of F that one derivative costs, at most; dual numbers count twice."""

    @property
    def width(self) -> float:
        """How far from the point F is asked; 0 for a derivative that takes no difference."""
        return 0.0

    @abstractmethod
    def along(
        self,
        F: TwoTimeVelocity,
        point: Point,
        tangent: Tangent,
        output: Tensor | None = None,
    ) -> Tensor:
        """(tangent . grad) F at the point, [B, ...], a constant: no gradient flows through it.

        `output` is F at the point where the caller has it in the precision that F is called with.
        """

    def __call__(
        self,
        F: AverageVelocity,
        z: Tensor,
        delta: Tensor,
        output: Tensor | None = None,
    ) -> Tensor:
        """dF/d(delta) [B, ...] of F(z, delta) at z [B, ...] and delta [B] in [0, 1]."""
        point = (z, torch.ones_like(delta), delta)
        return self.along(lambda x, t, delta: F(x, delta), point, ALONG_DELTA, output)


@dataclass(frozen=True)
class ExactJVP(Derivative):
    """The exact derivative by forward-mode differentiation (App. A.1, the continuous objective).

    Dual numbers with gradients off and the math attention kernel, because torch's fused kernels
    have no forward-mode rule.

    Args:
        attention: "math", or "flash" for the fused kernel of the package jvp_flash_attention, on a
            CUDA device alone (see `flash_jvp`).

    >>> ExactJVP()(lambda z, delta: z * delta[:, None] ** 2, torch.ones(1, 1), torch.tensor([3.0]))
    tensor([[6.]])
    """

    attention: Literal["math", "flash"] = "math"

    def __post_init__(self) -> None:
        if self.attention not in ("math", "flash"):
            raise ValueError(f"expected attention 'math' or 'flash', got {self.attention!r}")

    @torch.no_grad()
    def along(
        self,
        F: TwoTimeVelocity,
        point: Point,
        tangent: Tangent,
        output: Tensor | None = None,
    ) -> Tensor:
        if self.attention == "flash":
            check_flash(point[0].device)
        kernel = FlashAttention() if self.attention == "flash" else nullcontext()
        with forward_ad.dual_level(), forward_mode(), kernel:
            slope = forward_ad.unpack_dual(F(*_dual(point, tangent))).tangent
        if slope is None:
            raise RuntimeError(
                "the exact derivative got no tangent: the network ignores delta or detaches it; "
                "use CentralDifference or DiscretePrediction, or let delta reach the output"
            )
        return slope

    def attached(self, F: TwoTimeVelocity, point: Point) -> tuple[Tensor, Tensor]:
        """F and dF/d(delta) [B, ...], both on the graph: reverse over forward mode.

        By torch.func.jvp, because the softmax of a dual number has no backward.
        """
        if self.attention == "flash":
            raise ValueError(
                "the flash derivative has no gradient of its own: use ExactJVP with attention 'math'"
            )
        x, t, delta = point
        partial = (torch.ones_like(delta),)
        with forward_mode():
            dual = torch.func.jvp(lambda delta: F(x, t, delta), (delta,), partial, strict=True)
        return dual[0], dual[1]


@dataclass(frozen=True)
class Difference(Derivative):
    """A difference quotient of width h along the line, which ends where 0 <= delta <= t <= 1 does.

    The network runs in float32 outside autocast: the difference of two bfloat16 outputs is noise.
    Along a line on which t moves (Eulerian forms), a network that embeds 1000 t turns by 1000 h
    radians: use another form for such a network.
    """

    h: float = 5e-3

    def __post_init__(self) -> None:
        check_numbers(0, 0.5, without_low=True, h=self.h)

    @property
    def width(self) -> float:
        return self.h

    @abstractmethod
    def places(self, ahead: Tensor, behind: Tensor) -> tuple[Tensor, Tensor | None]:
        """How far along the line the two outputs are asked, [B] each; None for the point itself.

        Args:
            ahead: how far the line goes on, at most h, [B].
            behind: how far it goes back, at most h, [B].
        """

    @torch.no_grad()
    def along(
        self,
        F: TwoTimeVelocity,
        point: Point,
        tangent: Tangent,
        output: Tensor | None = None,
    ) -> Tensor:
        first, second = self.places(*_measure_room(self.h, point, tangent))
        device = point[0].device.type
        is_rounded = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False):
            if second is not None:
                other = F(*_move(point, tangent, second))
            else:
                second = torch.zeros_like(first)
                other = F(*point) if output is None or is_rounded else output
            return _quotient(F(*_move(point, tangent, first)), other, first - second)


@dataclass(frozen=True)
class CentralDifference(Difference):
    """(F(ahead by h) - F(behind by h)) / 2h, error O(h^2); one-sided at the ends of the line.

    Args:
        h: half width, in (0, 0.5]; the default's error is 4e-4 of the derivative in delta
            (tools/precision_table.py).

    >>> square = lambda z, delta: z * delta[:, None] ** 2
    >>> CentralDifference(0.25)(square, torch.ones(1, 1), torch.tensor([0.5]))
    tensor([[1.]])
    """

    def places(self, ahead: Tensor, behind: Tensor) -> tuple[Tensor, Tensor | None]:
        return ahead, -behind


@dataclass(frozen=True)
class ForwardDifference(Difference):
    """(F(ahead by h) - F) / h, error O(h); backward where the line ends within h.

    One evaluation where F at the point is known and no autocast has rounded it, two otherwise.

    Args:
        h: width, in (0, 0.5]; the default's error is 2e-3 of the derivative in delta, the least of
            all h (tools/precision_table.py).
    """

    def places(self, ahead: Tensor, behind: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.where(ahead >= behind, ahead, -behind), None


def _dual(point: Point, tangent: Tangent) -> Point:
    """The point as dual numbers; what is held stays a plain tensor."""
    (x, t, delta), (dx, dt, ddelta) = point, tangent
    if dx is not None:
        x = forward_ad.make_dual(x, dx.to(x.dtype))
    if dt:
        t = forward_ad.make_dual(t, torch.full_like(t, dt))
    if ddelta:
        delta = forward_ad.make_dual(delta, torch.full_like(delta, ddelta))
    return x, t, delta


def _move(point: Point, tangent: Tangent, step: Tensor) -> Point:
    """The point that lies `step` [B] further along the line."""
    (x, t, delta), (dx, dt, ddelta) = point, tangent
    if dx is not None:
        x = x + (expand(step, x) * dx).to(x.dtype)
    t = t + dt * step
    return x, t, torch.minimum(delta + ddelta * step, t)  # rounding would pass s = t - delta = 0


def _measure_room(h: float, point: Point, tangent: Tangent) -> tuple[Tensor, Tensor]:
    """How far the line stays in 0 <= delta <= t <= 1 ahead and behind, at most h; [B] each."""
    (_, t, delta), (_, dt, ddelta) = point, tangent
    ahead = behind = torch.full_like(t, h)
    for margin, shrinks in ((1 - t, dt), (delta, -ddelta), (t - delta, ddelta - dt)):
        if shrinks > 0:
            ahead = torch.minimum(ahead, margin / shrinks)
        elif shrinks < 0:
            behind = torch.minimum(behind, margin / -shrinks)
    return ahead, behind


def _quotient(one: Tensor, other: Tensor, distance: Tensor) -> Tensor:
    """(one - other) / distance; 0, not 0 / 0, where the line has no length.

    The map objectives' lines have none only where delta = 0, and delta multiplies the derivative.
    """
    if one.element_size() < 4:
        raise ValueError(
            f"a difference quotient of {str(one.dtype).removeprefix('torch.')} outputs is noise "
            "several times its size: use ExactJVP or DiscretePrediction, or a precision with "
            "float32 weights (32-true, bf16-mixed)"
        )
    return (one - other) / expand(torch.where(distance == 0, 1, distance), one)
