"""How much the error v_N - u of a sample counts at each time r, where it is corrected alone."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from freeflow_lightning.flow.checks import check_numbers
from freeflow_lightning.flow.flow_map import flow_map


class ScoreWeight(ABC):
    """A weight of the error v_N - u at (x_r, r), as a setting of a recipe."""

    @abstractmethod
    def __call__(self, x0: Tensor, x_r: Tensor, u: Tensor, r: Tensor) -> Tensor:
        """The weight of each sample, [B].

        Args:
            x0: the student's samples, [B, ...].
            x_r: the samples noised, [B, ...].
            u: the teacher's velocity at (x_r, r), [B, ...].
            r: times in (0, 1), [B].
        """


@dataclass(frozen=True)
class ConstantWeight(ScoreWeight):
    """Every r as it is: FreeFlow's correction.

    >>> import torch
    >>> one = torch.ones(1, 1)
    >>> ConstantWeight()(one, one, one, torch.tensor([0.5]))
    tensor([1.])
    """

    def __call__(self, x0: Tensor, x_r: Tensor, u: Tensor, r: Tensor) -> Tensor:
        return r.new_ones(len(r))


@dataclass(frozen=True)
class KLWeight(ScoreWeight):
    """(1 - r)^2 / r: the integral of the divergence KL(student || teacher) over r.

    >>> import torch
    >>> one = torch.ones(1, 1)
    >>> KLWeight()(one, one, one, torch.tensor([0.5]))
    tensor([0.5000])
    """

    def __call__(self, x0: Tensor, x_r: Tensor, u: Tensor, r: Tensor) -> Tensor:
        return (1 - r) ** 2 / r


@dataclass(frozen=True)
class DMDWeight(ScoreWeight):
    """r / mean |x0 - D(x_r, r)|, D = x_r + r u: errors of the denoiser in units of its own size.

    Distribution matching distillation (arXiv 2311.18828): r (v_N - u) is the difference of the two
    denoisers D.

    Args:
        floor: the least mean that is divided by.

    >>> import torch
    >>> one, half = torch.ones(1, 1), torch.tensor([0.5])
    >>> DMDWeight()(one, 0 * one, one, half)  # D = 0.5
    tensor([1.])
    """

    floor: float = 1e-5

    def __post_init__(self) -> None:
        check_numbers(0, without_low=True, floor=self.floor)

    def __call__(self, x0: Tensor, x_r: Tensor, u: Tensor, r: Tensor) -> Tensor:
        distance = (x0 - flow_map(x_r, u, r)).abs().flatten(1).mean(1)
        return r / distance.clamp(min=self.floor)
