"""Refusals of a teacher that cannot be distilled, and of data, before training starts."""

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from freeflow_lightning.nets import device_of
from freeflow_lightning.teachers import Teacher, check_contract, check_convention
from freeflow_lightning.training.data import PriorStream


def check_teacher_fits(teacher: Teacher, *, guided: bool, starts_student: bool) -> None:
    """Refuse a teacher whose velocity, conditions or backbone are not what it says.

    Args:
        teacher: is asked on a few samples, where its weights are.
        guided: whether it is asked for guided velocities.
        starts_student: whether the student starts from its backbone.

    Raises:
        ValueError: with what is wrong.
    """
    findings = check_contract(
        teacher, guided=guided, device=device_of(teacher), starts_student=starts_student
    )
    for finding in findings:
        finding.raise_if_broken()


def check_direction(teacher: Teacher, device: torch.device) -> None:
    """Measure the sign and the direction of time of a teacher, and warn where it does not tell.

    Raises:
        ValueError: one of them is wrong.
    """
    evidence = check_convention(teacher, device=device)
    evidence.raise_if_wrong()
    if evidence.verdict == "unclear":
        rank_zero_warn(evidence.summary())
    if evidence.size_problem:
        rank_zero_warn(evidence.size_problem)


def refuse_data(loader: Any) -> None:
    """Refuse batches of data: a distillation has no use for any (ValueError)."""
    if not isinstance(loader, PriorStream):
        raise ValueError(
            f"expected no data, got a {type(loader).__name__}: a distillation draws from the "
            "prior, fit(module) or fit(module, PriorDataModule(batch_size=...))"
        )
