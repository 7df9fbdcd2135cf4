"""What a student needs of its teacher where there is none: shape, conditions, decoder."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from freeflow_lightning.flow import check_counts, check_shapes
from freeflow_lightning.teachers.base import Teacher
from freeflow_lightning.teachers.conditions import Conditions


class LatentSpace(Teacher):
    """Shape, classes and decoder of a student that came without its teacher.

    Args:
        sample_shape: shape of one sample.
        num_classes: classes; the label `num_classes` is the null class.
        vae: what decodes samples to pictures, a LatentDecoder for example; None shows them as they
            are.
        conditions: what the student is conditioned on; uniform classes, or nothing without classes,
            if not given.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        num_classes: int,
        vae: Callable[[Tensor], Tensor] | None,
        conditions: Conditions | None = None,
    ) -> None:
        super().__init__()
        check_shapes(sample_shape=sample_shape)
        check_counts(0, num_classes=num_classes)
        self.sample_shape = sample_shape
        self.num_classes = num_classes
        self.vae = vae
        if conditions is not None:
            self.conditions = conditions

    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        raise ValueError(
            "a student's file holds no teacher: it can be sampled, but not compared or distilled"
        )

    def decode(self, x: Tensor) -> Tensor:
        return x if self.vae is None else self.vae(x)
