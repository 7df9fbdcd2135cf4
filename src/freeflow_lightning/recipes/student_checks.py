"""Refusals of a student that cannot be trained as its recipe asks, before training starts."""

import torch
from torch import Generator, nn

from freeflow_lightning.flow import apply
from freeflow_lightning.nets import ScalarConditioned, device_of, difference_error
from freeflow_lightning.teachers import Teacher, describe_condition


def check_student(student: nn.Module, teacher: Teacher) -> None:
    """Refuse a student that does not fit the teacher's states and conditions.

    Args:
        student: a network with the scalars delta and gamma, asked where its weights are.
        teacher: at two of whose states it is asked.

    Raises:
        ValueError: it fails, or returns another shape.
    """
    probe, device = Generator().manual_seed(0), device_of(student)
    condition = apply(lambda part: part.to(device), teacher.draw_condition(2, probe))
    x = torch.randn(2, *teacher.sample_shape, generator=probe).to(device)
    half = torch.full((2,), 0.5, device=device)
    try:
        with torch.no_grad():
            shape = student(x, half, condition, delta=half, gamma=half).shape
    except Exception as error:
        raise ValueError(
            f"the student network fails on two states of shape {list(x.shape)} and "
            f"{describe_condition(condition)} ({type(error).__name__}: {error}): make it fit the "
            "teacher's sample_shape and conditions"
        ) from error
    if shape != x.shape:
        raise ValueError(
            f"the student network returned shape {list(shape)} for states of shape "
            f"{list(x.shape)}: a velocity has the shape of its state, [batch, *sample_shape], "
            f"sample_shape = {teacher.sample_shape}"
        )


def refuse_dropout(student: nn.Module, form: object) -> None:
    """Refuse a student with dropout for a form that subtracts two of its outputs (ValueError)."""
    for path, layer in student.named_modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise ValueError(
                f"{type(form).__name__} subtracts two outputs of the student, and the dropout in "
                f"{path} would make their difference noise: set the dropout (lora.dropout, or the "
                "network's own) to 0, or use the exact derivative (ContinuousPrediction, "
                "Lagrangian: derivative=ExactJVP())"
            )


def check_time_step(student: ScalarConditioned, teacher: Teacher, step: float) -> None:
    """Refuse a difference in t that is wider than the student's time embedding is smooth.

    Raises:
        ValueError: an embedding of 1000 t, for example.
    """
    generator, device = Generator().manual_seed(0), device_of(student)
    x = torch.zeros(4, *teacher.sample_shape, device=device)
    condition = apply(lambda part: part.to(device), teacher.draw_condition(4, generator))
    error = difference_error(student, x, condition, step)
    if error > 0.1:
        raise ValueError(
            f"a difference over h = {step:g} misses the derivative of this network's time "
            f"embedding by {error:.0%} (it embeds a large multiple of t, such as 1000 t): use "
            "derivative=ExactJVP(), or a form that holds t (Lagrangian, DiscreteLagrangian, "
            "DiscreteEulerian)"
        )
