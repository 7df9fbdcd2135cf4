"""A plain function as a teacher."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from freeflow_lightning.flow import check_counts, check_shapes
from freeflow_lightning.teachers.base import Teacher


class VelocityTeacher(Teacher):
    """Wraps `function(x, t, condition)`, already in the paper's convention (t = 1 is the prior,
    velocity towards data).

    Args:
        function: the velocity; an nn.Module is moved with the teacher and can start the student.
        sample_shape: shape of one state.
        num_classes: classes that `condition` labels, the label `num_classes` being the null class;
            0 for no condition.

    >>> import torch
    >>> VelocityTeacher(lambda x, t, condition: -x, (2,)).velocity(torch.ones(1, 2), torch.ones(1), None)
    tensor([[-1., -1.]])
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor, Any], Tensor],
        sample_shape: tuple[int, ...],
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        check_shapes(sample_shape=sample_shape)
        check_counts(0, num_classes=num_classes)
        self.function = function
        self.sample_shape = tuple(sample_shape)
        self.num_classes = num_classes

    def velocity(self, x: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.function(x, t, condition)

    def backbone(self) -> nn.Module:
        return self.function if isinstance(self.function, nn.Module) else super().backbone()
