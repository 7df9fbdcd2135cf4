"""What every sampler is: a function of noise and condition that knows its name and what its samples
depend on; and what those of a teacher share.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freeflow_lightning.flow import EVALUATIONS, check_numbers
from freeflow_lightning.nets import precision_of
from freeflow_lightning.sampling.hashes import weights_hash
from freeflow_lightning.teachers import Teacher


class Sampler(ABC):
    """Draws samples: `sampler(z, condition)`.

    Attributes:
        teacher: draws conditions and decodes samples.
        guidance: gamma of the samples.
    """

    teacher: Teacher
    guidance: float

    @abstractmethod
    def __call__(self, z: Tensor, condition: Any) -> Tensor:
        """Return the samples, [B, *sample_shape], of the noise z, [B, *sample_shape], and its
        condition.
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """Who draws, and in how many steps, in words for a table."""

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network whose weights the samples depend on."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Network evaluations of one sample."""

    def facts(self) -> dict[str, Any]:
        """Return all that the samples depend on beside noise and condition, as JSON."""
        return {
            "drawn by": self.name,
            "weights": weights_hash(self.network)[:16],
            "guidance": self.guidance,
            "decoder": f"{type(self.teacher).__name__}.decode",
            "sample shape": list(self.teacher.sample_shape),
        }


@dataclass(frozen=True)
class SolvedSampler(Sampler):
    """What samplers share that solve an ODE of a teacher's velocity; each says of which flow."""

    teacher: Teacher
    method: str = "heun"
    steps: int = 64
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(0, guidance=self.guidance)

    @property
    def network(self) -> nn.Module:
        """The teacher."""
        return self.teacher

    @property
    def evaluations(self) -> int:
        branches = 1 if self.guidance == 1 else self.teacher.guided_evaluations
        return EVALUATIONS[self.method] * self.steps * branches

    def settings(self) -> dict[str, Any]:
        """Return how the ODE is solved, as JSON."""
        return {"method": self.method, "steps": self.steps, "guidance": self.guidance}

    def widen(self, z: Tensor) -> Tensor:
        """Return states as wide as the noise and the teacher's weights: narrower teachers cast."""
        return z.to(torch.promote_types(z.dtype, precision_of(self.teacher)))
