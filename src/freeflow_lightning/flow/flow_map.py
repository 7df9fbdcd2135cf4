"""The flow map f(z, delta) = z + delta F(z, delta), and three ways to its derivative along delta."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from freeflow_lightning.flow.checks import check_numbers
from freeflow_lightning.flow.interpolant import expand

AverageVelocity = Callable[[Tensor, Tensor], Tensor]
"""F(z, delta): [B, ...] and [B] in [0, 1] to [B, ...]."""


def flow_map(z: Tensor, F: Tensor, delta: Tensor) -> Tensor:
    """f(z, delta) = z + delta F (Sec. 4); f(z, 0) = z by construction.

    >>> flow_map(torch.ones(1, 1), torch.full((1, 1), -0.5), torch.tensor([1.0]))
    tensor([[0.5000]])
    """
    return z + expand(delta, z) * F


class Derivative(ABC):
    """A way to dF/d(delta), the partial derivative with z held."""

    @abstractmethod
    def __call__(self, F: AverageVelocity, z: Tensor, delta: Tensor, output: Tensor | None = None) -> Tensor:
        """z [B, ...] and delta [B] to dF/d(delta) [B, ...], a constant: no gradient flows through it.

        `output` is F(z, delta) where the caller has it in the precision that F is called with.
        """


@dataclass(frozen=True)
class ExactJVP(Derivative):
    """Exact dF/d(delta) by forward-mode differentiation: tangent 0 for z, 1 for delta (App. A.1, the continuous objective).

    Dual numbers with gradients off and the math attention kernel, because the fused kernels have no forward-mode rule.

    >>> ExactJVP()(lambda z, delta: z * delta[:, None] ** 2, torch.ones(1, 1), torch.tensor([3.0]))
    tensor([[6.]])
    """

    @torch.no_grad()
    def __call__(self, F: AverageVelocity, z: Tensor, delta: Tensor, output: Tensor | None = None) -> Tensor:
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            dual = forward_ad.make_dual(delta, torch.ones_like(delta))
            try:
                tangent = forward_ad.unpack_dual(F(z, dual)).tangent
            except (NotImplementedError, RuntimeError) as error:
                if "forward AD" not in str(error) and "jvp" not in str(error):
                    raise
                raise RuntimeError(
                    f"the exact derivative meets an operation without a forward-mode rule ({str(error).splitlines()[0]}): use "
                    "CentralDifference or DiscretePrediction, or a network whose attention is scaled_dot_product_attention"
                ) from error
        if tangent is None:
            raise RuntimeError(
                "the exact derivative got no tangent: the network ignores delta or detaches it; "
                "use CentralDifference or DiscretePrediction, or let delta reach the output"
            )
        return tangent


@dataclass(frozen=True)
class CentralDifference(Derivative):
    """(F(z, delta + h) - F(z, delta - h)) / 2h, error O(h^2); one-sided at the ends so that delta stays in [0, 1].

    The network runs in float32 outside autocast: the difference of two bfloat16 outputs is noise.

    Args:
        h: half width, in (0, 0.5]; the default's error is 4e-4 of the derivative (tools/precision_table.py).

    >>> CentralDifference(0.25)(lambda z, delta: z * delta[:, None] ** 2, torch.ones(1, 1), torch.tensor([0.5]))
    tensor([[1.]])
    """

    h: float = 5e-3

    def __post_init__(self) -> None:
        check_numbers(0, 0.5, without_low=True, h=self.h)

    @torch.no_grad()
    def __call__(self, F: AverageVelocity, z: Tensor, delta: Tensor, output: Tensor | None = None) -> Tensor:
        lower, upper = (delta - self.h).clamp(min=0), (delta + self.h).clamp(max=1)
        with _full_precision(z):
            return _quotient(F(z, upper), F(z, lower), upper - lower)


@dataclass(frozen=True)
class ForwardDifference(Derivative):
    """(F(z, delta + h) - F(z, delta)) / h, error O(h); backward where delta + h leaves [0, 1].

    One evaluation where F(z, delta) is known and no autocast has rounded it, two otherwise.

    Args:
        h: width, in (0, 0.5]; the default's error is 2e-3 of the derivative, the least of all h (tools/precision_table.py).
    """

    h: float = 5e-3

    def __post_init__(self) -> None:
        check_numbers(0, 0.5, without_low=True, h=self.h)

    @torch.no_grad()
    def __call__(self, F: AverageVelocity, z: Tensor, delta: Tensor, output: Tensor | None = None) -> Tensor:
        other = torch.where(delta + self.h <= 1, delta + self.h, delta - self.h)
        known = output is not None and not torch.is_autocast_enabled(z.device.type)
        with _full_precision(z):
            here = output if known and output is not None else F(z, delta)
            return _quotient(F(z, other), here, other - delta)


def _full_precision(z: Tensor) -> torch.autocast:
    return torch.autocast(z.device.type, enabled=False)


def _quotient(one: Tensor, other: Tensor, distance: Tensor) -> Tensor:
    if one.element_size() < 4:
        raise ValueError(
            f"a difference quotient of {str(one.dtype).removeprefix('torch.')} outputs is noise several times its size: use "
            "ExactJVP or DiscretePrediction, or a precision with float32 weights (32-true, bf16-mixed)"
        )
    return (one - other) / expand(distance, one)
