"""What the student's raw output is worth, and so its learning rate; and what bfloat16 does to it."""

import math

import torch

from freeflow_lightning.teachers import Teacher


def find_scale(teacher: Teacher, device: torch.device) -> float:
    """Return what the raw output of a teacher's network is worth in u at the prior; 1 for a
    velocity.

    At t = 1 a score or noise network is multiplied by its `output_scale`, 157 for DDPM's betas.

    Raises:
        ValueError: a teacher that says something else than a finite number above 0.
    """
    scale = float(teacher.output_scale(torch.ones(1, device=device, dtype=torch.float32)))
    if not 0 < scale < math.inf:
        raise ValueError(
            f"expected output_scale(1) of the teacher to be finite and above 0, got {scale}"
        )
    return scale


def step_size(rate: float | None, scale: float) -> str:
    """Return the student's learning rate in words: why and by what it is divided, and what to give
    for an Adam rate of that size.

    >>> step_size(3e-4, 150.0)
    'student_lr / 150 = 2e-06: at the prior u is the raw output times 150; an Adam rate of 0.0003 is student_lr 0.045'
    """
    reason = f"at the prior u is the raw output times {scale:.4g}"
    if rate is None:
        return f"student_lr / {scale:.4g}: {reason}"
    adam = f"an Adam rate of {rate:.4g} is student_lr {rate * scale:.4g}"
    return f"student_lr / {scale:.4g} = {rate / scale:.4g}: {reason}; {adam}"


def bfloat16_error(scale: float, precision: str) -> str | None:
    """Return what bfloat16 does to a student whose raw output is worth `scale` in u; None where it
    does little.

    >>> bfloat16_error(1.0, "bf16-mixed") is None, bfloat16_error(150.0, "32-true") is None
    (True, True)
    """
    error = scale / 2**9
    if "bf16" not in precision or error < 0.02:
        return None
    return (
        f"bfloat16 rounds the raw output by 0.2 %, which is {error:.0%} of u at the prior: train "
        "with precision 32-true, or give the teacher a lower t_max"
    )
