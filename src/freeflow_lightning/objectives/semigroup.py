"""The semigroup form: two legs of the student's own map lead where one does."""

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from freeflow_lightning.flow.checks import check_numbers
from freeflow_lightning.flow.distributions import TimeDistribution
from freeflow_lightning.flow.flow_map import TwoTimeVelocity, average_two_legs
from freeflow_lightning.flow.solver import Velocity
from freeflow_lightning.objectives.map_objective import MapObjective


@dataclass(frozen=True, eq=False)
class Semigroup(MapObjective):
    r"""Delta_S = F(x, t, s) - g F(x, t, m) - (1 - g) F(f(x, t, m), m, s), m = t - g (t - s).

    $$f(x, t, s) = f(f(x, t, m), m, s)$$

    PSD (arXiv 2505.18825) with g uniform, shortcut models (2410.12557) with g = 1/2, SplitMeanFlow
    (2507.16884). Both legs are under stop-gradient. The teacher is not in it: it needs anchor rows,
    half of the batch at first, without which every split map solves it.

    Args:
        split: g in (0, 1), or the law that `prepare` draws it from for each row.

    >>> one, half = torch.ones(1, 1), torch.tensor([0.5])
    >>> F = lambda x, t, delta: 2 * x
    >>> Semigroup().error(F, F(one, half, half), lambda x, t: x, one, half, half)  # 2 - 1 - 1.5
    tensor([[-0.5000]])
    """

    split: float | TimeDistribution | Tensor = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.split, TimeDistribution | Tensor):
            check_numbers(0, 1, split=self.split)

    def prepare(self, n: int, generator: Generator) -> "Semigroup":
        if not isinstance(self.split, TimeDistribution):
            return self
        return replace(self, split=self.split.sample(n, generator))

    @torch.no_grad()
    def error(
        self,
        F: TwoTimeVelocity,
        output: Tensor,
        u: Velocity,
        x: Tensor,
        t: Tensor,
        delta: Tensor,
    ) -> Tensor:
        if isinstance(self.split, TimeDistribution):
            law = f"expected a split that is drawn, got the law {self.split}"
            raise ValueError(f"{law}: use the form that prepare(n, generator) returns")
        if isinstance(self.split, Tensor):
            share = self.split.to(t, non_blocking=True).expand_as(t)
        else:
            share = torch.full_like(t, self.split)
        first = F(x, t, share * delta)
        return output - average_two_legs(F, first, x, t, delta, share)

    @property
    def needs_anchor(self) -> bool:
        return True

    @property
    def subtracts_outputs(self) -> bool:
        return True

    @property
    def student_evaluations(self) -> int:
        return 2

    @property
    def teacher_evaluations(self) -> int:
        return 0
