"""A training step, measured in a Trainer of its own beside the bare network evaluations that it
needs.
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from freeflow_lightning.callbacks import (
    DiversityAlarm,
    NetworkSummary,
    PeriodicFID,
    SampleGrid,
    TrajectoryError,
    ValidationAtEnds,
)
from freeflow_lightning.callbacks.schedule import StepSchedule
from freeflow_lightning.profiling.bench_report import BenchReport
from freeflow_lightning.profiling.bench_subject import BenchSubject, count_averages
from freeflow_lightning.profiling.clock import Clock
from freeflow_lightning.profiling.hardware import machine, peak_flops
from freeflow_lightning.profiling.no_data import without_data
from freeflow_lightning.profiling.sampling_time import (
    measure_student_sampling,
    measure_teacher_sampling,
)
from freeflow_lightning.profiling.step_memory import Costs, estimate
from freeflow_lightning.profiling.step_time import SideBySide
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.training.data import PriorDataModule
from freeflow_lightning.training.run_loggers import MetricsCSV

PRECISION_OF_TRAINER: dict[str, Any] = {
    "32": "32-true",
    "bf16-mixed": "bf16-mixed",
    "bf16-true": "bf16-true",
}


ONLY_AT_TIMES = (
    StepSchedule,
    PeriodicFID,
    SampleGrid,
    TrajectoryError,
    DiversityAlarm,
    ValidationAtEnds,
    NetworkSummary,
    ProgressBar,
    Checkpoint,
)
"""Callbacks that a steady step does without; schedules are at their end."""

PARTS_OF_BENCH = ("estimates", "training", "sampling", "FID")
"""What `measure_step` does, one after the other."""


def measure_step(
    subject: BenchSubject,
    device: torch.device,
    *,
    rounds: int,
    compiled: bool,
    estimates: bool = True,
    begin: Callable[[str], None] = lambda part: None,
) -> BenchReport:
    """Train a few steps in a Trainer of its own, with loggers in a temporary folder, and sample a
    little.

    Args:
        subject: what is measured.
        device: where.
        rounds: how many steps are timed.
        compiled: compile the networks' blocks, where the recipe does not already.
        estimates: put beside it what `freeflow inspect` says, which takes seconds of a CPU.
        begin: told which of `PARTS_OF_BENCH` begins.
    """
    start = time.perf_counter()
    begin("estimates")
    costs = estimate_costs(subject) if estimates else None
    module, clock = make_steady(subject), Clock(device)
    if compiled and module.compile_backend is None:
        module.compile_backend, module.skip_idle_rows = "inductor", False
    compiled = module.compile_backend is not None
    side = SideBySide(clock, rounds, 4 if compiled else 2, len(module.steady_steps))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        trainer = _build_trainer(subject, device, side, folder)
        data = PriorDataModule(subject.batch_size, length=side.steps, seed=subject.seed)
        begin("training")
        trainer.fit(module, data)
        module.to(device)  # a Trainer leaves it on the CPU
        options: dict[str, Any] = {
            "rounds": max(3, rounds // 2),
            "context": trainer.precision_plugin.forward_context,
        }
        begin("sampling")
        drawn = {
            "student": measure_student_sampling(module, subject.batch_size, clock, **options),
            "teacher": measure_teacher_sampling(module, subject.batch_size, clock, **options),
        }
        begin("FID")
        fid = measure_fid(subject, module, clock)
    return BenchReport(
        subject=subject,
        costs=costs,
        side=side,
        sampling=drawn,
        fid_seconds=fid,
        peak_flops=peak_flops(machine(device)["device"], subject.precision),
        clock=clock.name,
        seconds=time.perf_counter() - start,
        compiled=compiled,
    )


def make_steady(subject: BenchSubject) -> Distillation:
    """Return the recipe whose every step is one of the end of a long run."""
    module = subject.make(subject.teacher)
    module.lr_decay_steps = 0  # rates are held at 0, so that every round finds the same weights
    for callback in subject.callbacks:
        if isinstance(callback, StepSchedule):
            callback.check(module)
            callback.set_value(module, callback.length)
    first, begin_step = module.steady_steps.start, module.begin_step
    module.begin_step = lambda step: begin_step(first + step)  # type: ignore[method-assign]
    return module


def _build_trainer(
    subject: BenchSubject, device: torch.device, side: SideBySide, folder: str
) -> Trainer:
    """Return the Trainer of a steady step: the run's own callbacks that act in every step, its
    loggers.
    """
    steady = [callback for callback in subject.callbacks if not isinstance(callback, ONLY_AT_TIMES)]
    events = TensorBoardLogger(folder, "bench", 0, default_hp_metric=False)
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision=PRECISION_OF_TRAINER[subject.precision],
        callbacks=[*steady, side],
        logger=[MetricsCSV(folder, "bench", 0), events],
        log_every_n_steps=subject.log_every,
        gradient_clip_val=subject.clip,
        max_steps=side.steps,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def estimate_costs(subject: BenchSubject) -> Costs | None:
    """Return what `freeflow inspect` says of this step; None for a teacher that it cannot
    follow.
    """
    stand_in = without_data(subject.teacher)
    try:
        return estimate(
            lambda: subject.make(stand_in),
            batch_size=subject.batch_size,
            precision=subject.precision,
            averages=count_averages(subject),
        )
    except ValueError:
        return None


@torch.no_grad()
def measure_fid(subject: BenchSubject, module: Distillation, clock: Clock) -> float | None:
    """Of one validation with PeriodicFID, its reference cached: two batches and a distance
    measured, the rest counted.
    """
    if subject.fid is None or not subject.val_samples:
        return None
    metric = subject.fid.metric_for(module)
    z, condition = module.teacher.draw_indexed(
        torch.arange(subject.val_batch_size), seed=0, stream="bench", device=module.device
    )
    # any reference takes as long
    metric.update(pictures(module.teacher, module.generate(z, condition)), real=True)

    def batch() -> None:
        index = torch.arange(subject.val_batch_size)
        z, condition = module.teacher.draw_indexed(
            index, seed=0, stream="bench", device=module.device
        )
        metric.update(pictures(module.teacher, module.generate(z, condition)), real=False)

    once = min(clock(batch), clock(batch))
    return once * subject.val_samples / subject.val_batch_size + clock(metric.compute)
