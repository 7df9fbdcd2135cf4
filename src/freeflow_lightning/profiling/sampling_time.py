"""Drawing samples, timed against the bare evaluations in it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from freeflow_lightning.profiling.clock import Clock
from freeflow_lightning.profiling.network_calls import record_calls
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.sampling.draw import ROWS, Draw, evaluate_rows
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap


class Sampling(NamedTuple):
    """Seconds of drawing `samples` samples, and of the bare evaluations in it."""

    samples: int
    evaluations: float
    whole: float
    bare: float


def measure_sampling(
    network: nn.Module,
    draw: Callable[[], Tensor],
    clock: Clock,
    *,
    rounds: int,
    context: Callable[[], AbstractContextManager],
) -> Sampling:
    """Time `draw` against the evaluations of `network` that it makes, in turn; medians."""
    with context(), record_calls({"network": network}) as made:
        count = len(draw())

    def whole() -> None:
        with context():
            draw()

    @torch.no_grad()
    def bare() -> None:
        with context():
            for evaluation in made:
                evaluation.again()

    bare()
    pairs = [
        (clock(whole), clock(bare)) if k % 2 else (clock(bare), clock(whole))[::-1]
        for k in range(rounds)
    ]
    whole_times, bare_times = zip(*pairs, strict=True)
    return Sampling(count, sum(e.rows for e in made), median(whole_times), median(bare_times))


def measure_student_sampling(
    module: Distillation, n: int, clock: Clock, **options: Any
) -> Sampling:
    """FlowMap.sample of n samples, rounded up to a multiple of ROWS, against the student's bare
    evaluation.
    """
    flow_map = FlowMap(module.evaluated, module.teacher, module.guidance_range)
    n = -(-n // ROWS) * ROWS
    return measure_sampling(
        flow_map.network,
        lambda: flow_map.sample(n, guidance=module.evaluation_guidance, batch_size=n),
        clock,
        **options,
    )


def measure_teacher_sampling(
    module: Distillation, n: int, clock: Clock, *, steps: int = 2, **options: Any
) -> Sampling:
    """`steps` Heun steps of the teacher for n samples, noise included, against its bare
    evaluations.
    """
    teacher, n = module.teacher, -(-n // ROWS) * ROWS
    sampler = TeacherSampler(teacher, "heun", steps, module.evaluation_guidance)

    @torch.no_grad()
    def draw() -> Tensor:
        z, condition = Draw().noise(teacher, torch.arange(n), module.device)
        return evaluate_rows(sampler, z, condition)

    return measure_sampling(teacher, draw, clock, **options)
