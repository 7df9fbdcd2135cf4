"""What every sampler is: a function of noise and condition that knows its name and what its samples
depend on.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

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

    def facts(self) -> dict[str, Any]:
        """Return all that the samples depend on beside noise and condition, as JSON."""
        return {
            "drawn by": self.name,
            "weights": weights_hash(self.network)[:16],
            "guidance": self.guidance,
            "decoder": f"{type(self.teacher).__name__}.decode",
            "sample shape": list(self.teacher.sample_shape),
        }
