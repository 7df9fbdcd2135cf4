"""The conditions that a user gives for samples, as a student's network takes them."""

from typing import Any

import torch
from torch import Tensor

from freeflow_lightning import flow
from freeflow_lightning.teachers import Teacher


def read_condition(teacher: Teacher, condition: Any, n: int, device: torch.device) -> Any:
    """Return a condition of n samples as the network takes it, on the device; a list of numbers is
    taken for class labels.

    Raises:
        ValueError: another number of conditions, labels that there are not, or a condition that the
            student does not take.
    """
    if condition is None:
        if teacher.num_classes:
            raise ValueError(
                f"expected a class label for each of the {n} samples, got no condition: give "
                f"labels [{n}]"
            )
        return None
    parts = condition if isinstance(condition, list | tuple) else [condition]
    numbers = all(isinstance(part, int | float) for part in parts)
    given = torch.tensor(condition) if numbers else condition
    if isinstance(given, Tensor) and teacher.num_classes and given.ndim < 2:
        if given.shape != (n,) or given.is_floating_point() or given.dtype == torch.bool:
            raise ValueError(
                f"expected one whole class label for each of the {n} samples, got {given.dtype} "
                f"of shape {list(given.shape)}"
            )
        return teacher.conditions.of_classes(given.to(device, torch.int64))
    if numbers:
        raise ValueError(
            "expected no class labels, since this student has no classes: leave condition out"
        )
    return flow.apply(lambda tensor: _rows_of(tensor, n).to(device), given)


def _rows_of(tensor: Tensor, n: int) -> Tensor:
    if tensor.ndim < 1 or len(tensor) != n:
        raise ValueError(
            f"expected one condition for each of the {n} samples, got a tensor of shape "
            f"{list(tensor.shape)}"
        )
    return tensor
