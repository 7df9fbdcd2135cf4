"""The conditions that a user gives for samples, as a student's network takes them."""

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from freeflow_lightning import flow
from freeflow_lightning.sampling.draw import draws_plain_classes
from freeflow_lightning.teachers import Teacher


def read_condition(teacher: Teacher, condition: Any, n: int, device: torch.device) -> Any:
    """Return a condition of n samples as the network takes it, on the device; numbers in a list or
    an array are taken for class labels.

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
    numbers = _are_numbers(condition)
    given = _as_tensor(condition) if numbers else condition
    is_flat = isinstance(given, Tensor) and given.ndim < 2
    if teacher.num_classes and (is_flat or draws_plain_classes(teacher)):
        return teacher.conditions.of_classes(_labels_of(given, n).to(device, torch.int64))
    if numbers:
        raise ValueError(
            "expected no class labels, since this student has no classes: leave condition out"
        )
    return flow.apply(lambda tensor: _rows_of(tensor, n).to(device), given)


def _are_numbers(condition: Any) -> bool:
    """Whether a condition is a number, some in a list, or an array of NumPy's."""
    if isinstance(condition, list | tuple | range):
        return all(isinstance(part, Real) for part in condition)
    is_array = hasattr(condition, "__array__") and not isinstance(condition, Tensor)
    return is_array or isinstance(condition, Real)


def _as_tensor(numbers: Any) -> Tensor:
    try:
        return torch.as_tensor(numbers)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"expected class labels, got {numbers!r:.60} ({error})") from error


def _labels_of(given: Any, n: int) -> Tensor:
    """The labels [n]; ValueError for anything else."""
    found = f"a {type(given).__name__}"
    if isinstance(given, Tensor):
        if given.shape == (n,) and not given.is_floating_point() and given.dtype != torch.bool:
            return given
        found = f"{given.dtype} of shape {list(given.shape)}"
    raise ValueError(f"expected one whole class label for each of the {n} samples, got {found}")


def _rows_of(tensor: Tensor, n: int) -> Tensor:
    if tensor.ndim < 1 or len(tensor) != n:
        raise ValueError(
            f"expected one condition for each of the {n} samples, got a tensor of shape "
            f"{list(tensor.shape)}"
        )
    return tensor
