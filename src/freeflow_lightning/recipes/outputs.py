"""What a recipe hands to others: a step's loss, a validation's samples, how G was trained."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from freeflow_lightning.flow import TimeDistribution
from freeflow_lightning.objectives import Residual


class Step(NamedTuple):
    """What one step has computed.

    Args:
        loss: the scalar whose gradient is the step's.
        residuals: what the step minimises, by name; they are checked to be finite, and logged.
        scalars: further numbers to log, by the figure's name.
    """

    loss: Tensor
    residuals: Mapping[str, Residual]
    scalars: Mapping[str, Tensor] = {}


class ValidationBatch(NamedTuple):
    """What a validation step hands to the callbacks.

    Args:
        indices: of the samples, int64 [B].
        z: their noise, [B, ...].
        condition: their conditions, as the teacher draws them.
        samples: drawn from noise and condition, [B, ...].
    """

    indices: Tensor
    z: Tensor
    condition: Any
    samples: Tensor


class AuxiliaryTraining(NamedTuple):
    """How an auxiliary network G(x, r, condition, gamma) was trained, for those who examine it.

    Args:
        r: law of its time.
        guidance_interval: times inside which the teacher that it corrects towards is guided.
        lr: its learning rate.
    """

    r: TimeDistribution
    guidance_interval: tuple[float, float]
    lr: float
