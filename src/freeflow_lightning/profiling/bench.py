"""A training step, measured in a Trainer of its own beside the bare network evaluations that it
needs.
"""

import tempfile
import time
import warnings
from collections.abc import Callable
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from freeflow_lightning.callbacks import (
    AlphaSchedule,
    ConfidentRegionWarmup,
    NetworkSummary,
    PeriodicFID,
    SampleGrid,
    StudentEMA,
    TrajectoryError,
)
from freeflow_lightning.profiling.hardware import machine, peak_flops
from freeflow_lightning.profiling.step_memory import (
    Costs,
    PrecisionName,
    SizeName,
    estimate,
    sit_teacher,
    without_data,
)
from freeflow_lightning.profiling.step_parts import CHECKS, EMA, LOGGING
from freeflow_lightning.profiling.step_time import (
    Clock,
    Round,
    Sampling,
    SideBySide,
    mean_rows,
    one_step_sampling,
    teacher_sampling,
)
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.freeflow import FreeFlowModule
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.data import PriorDataModule
from freeflow_lightning.training.run_folder import MetricsCSV

PRECISION_OF_TRAINER: dict[str, Any] = {
    "32": "32-true",
    "bf16-mixed": "bf16-mixed",
    "bf16-true": "bf16-true",
}


ONLY_AT_TIMES = (
    AlphaSchedule,
    ConfidentRegionWarmup,
    PeriodicFID,
    SampleGrid,
    TrajectoryError,
    NetworkSummary,
    ProgressBar,
    Checkpoint,
)
"""Callbacks that a steady step does without."""


TABLE_6_STEPS = {256: 1_500_000, 512: 1_000_000}


TABLE_6_BATCH = 256


OVERHEADS = {
    "method": "drawing and loss terms: plain loop - floor",
    "lightning": "Lightning, other callbacks: step - plain loop - next two",
    "checks": "gradient norms and checks",
    "ema": "EMA",
    "logging": "logging, spread over the steps between",
    "fid": "PeriodicFID, spread over the steps between",
}
"""What a step costs beside its floor, by its name in the JSON file."""


class Subject(NamedTuple):
    """What is measured: how to build it around a teacher, and the settings of its run."""

    name: str
    teacher: Teacher
    make: Callable[[Teacher], Distillation]
    batch_size: int
    precision: PrecisionName
    callbacks: list[Callback]
    log_every: int = 50
    clip: float | None = None
    run_steps: int = 0
    run_batch: int = TABLE_6_BATCH
    fid: PeriodicFID | None = None
    val_samples: int = 0
    val_batch_size: int = 1
    val_every: int = 1
    seed: int = 0


class Report(NamedTuple):
    """Everything that was measured."""

    subject: Subject
    costs: Costs | None
    side: SideBySide
    sampling: dict[str, Sampling]
    fid_seconds: float | None
    peak_flops: float | None
    clock: str
    seconds: float
    compiled: bool

    @property
    def rounds(self) -> list[Round]:
        return self.side.rounds

    def median(self, part: str) -> float:
        """Seconds of a Round's part."""
        return median(getattr(measured, part) for measured in self.rounds)

    @property
    def samples_per_second(self) -> float:
        return self.subject.batch_size / self.median("step")

    @property
    def device_days(self) -> float:
        """Of the whole run, on one such device."""
        return self.subject.run_steps * self.subject.run_batch / self.samples_per_second / 86_400


def from_size(size: SizeName, image_size: int) -> Subject:
    """A SiT of a published size with random weights, and the paper's settings."""

    def make(teacher: Teacher) -> Distillation:
        return FreeFlowModule(
            teacher, check_teacher=False
        )  # random weights have no direction of time

    return Subject(
        name=f"SiT-{size} with random weights, {image_size} x {image_size}",
        teacher=sit_teacher(size, image_size),
        make=make,
        batch_size=8,
        precision="32",
        callbacks=[StudentEMA()],
        run_steps=TABLE_6_STEPS.get(image_size, TABLE_6_STEPS[512]),
    )


def measure(subject: Subject, device: torch.device, *, rounds: int, compiled: bool) -> Report:
    """Train a few steps in a Trainer of its own, with loggers in a temporary folder, and sample a
    little.
    """
    start = time.perf_counter()
    costs = estimated(subject)
    module, clock = subject.make(subject.teacher), Clock(device)
    if compiled and module.compile_backend is None:
        module.compile_backend, module.skip_idle_rows = "inductor", False
    compiled = module.compile_backend is not None
    side = SideBySide(clock, rounds, warmup=4 if compiled else 2)
    steady = [callback for callback in subject.callbacks if not isinstance(callback, ONLY_AT_TIMES)]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*`torch.jit.script` is deprecated.*")
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=PRECISION_OF_TRAINER[subject.precision],
            callbacks=[*steady, side],
            logger=[
                MetricsCSV(folder, "bench", 0),
                TensorBoardLogger(folder, "bench", 0, default_hp_metric=False),
            ],
            log_every_n_steps=subject.log_every,
            gradient_clip_val=subject.clip,
            max_steps=side.steps,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(
            module, PriorDataModule(subject.batch_size, length=side.steps, seed=subject.seed)
        )
        module.to(device)  # a Trainer leaves it on the CPU
        options: dict[str, Any] = {
            "rounds": max(3, rounds // 2),
            "context": trainer.precision_plugin.forward_context,
        }
        drawn = {
            "student": one_step_sampling(module, subject.batch_size, clock, **options),
            "teacher": teacher_sampling(module, subject.batch_size, clock, **options),
        }
        fid = fid_seconds(subject, module, clock)
    peak = peak_flops(machine(device)["device"], subject.precision)
    return Report(
        subject, costs, side, drawn, fid, peak, clock.name, time.perf_counter() - start, compiled
    )


def estimated(subject: Subject) -> Costs | None:
    """What `freeflow inspect` says of this step; None for a teacher that it cannot follow."""
    averages = sum(
        len(callback.decays) for callback in subject.callbacks if isinstance(callback, StudentEMA)
    )
    stand_in = without_data(subject.teacher)
    try:
        return estimate(
            lambda: subject.make(stand_in),
            batch_size=subject.batch_size,
            precision=subject.precision,
            averages=averages,
        )
    except ValueError:
        return None


@torch.no_grad()
def fid_seconds(subject: Subject, module: Distillation, clock: Clock) -> float | None:
    """Of one validation with PeriodicFID, its reference cached: two batches and a distance
    measured, the rest counted.
    """
    if subject.fid is None or not subject.val_samples:
        return None
    metric = subject.fid.metric.to(module.device)
    z, condition = module.teacher.draw_indexed(
        torch.arange(subject.val_batch_size), seed=0, stream="bench", device=module.device
    )
    metric.update(
        pictures(module.teacher, module.generate(z, condition)), real=True
    )  # any reference takes as long

    def batch() -> None:
        index = torch.arange(subject.val_batch_size)
        z, condition = module.teacher.draw_indexed(
            index, seed=0, stream="bench", device=module.device
        )
        metric.update(pictures(module.teacher, module.generate(z, condition)), real=False)

    once = min(clock(batch), clock(batch))
    return once * subject.val_samples / subject.val_batch_size + clock(metric.compute)


def as_figures(report: Report) -> dict[str, Any]:
    """Everything, as JSON has it; seconds, bytes, FLOPs and samples without prefixes."""
    subject, side, breakdown, parts = (
        report.subject,
        report.side,
        report.side.breakdown,
        report.side.parts,
    )
    assert breakdown is not None  # the last step is profiled
    step, floor, method = (report.median(part) for part in ("step", "floor", "method"))
    rows = mean_rows(report.rounds)
    evaluations = sum(n for kinds in rows.values() for n in kinds.values())
    achieved = side.flops / step
    return {
        "subject": {
            "name": subject.name,
            "batch_size": subject.batch_size,
            "precision": subject.precision,
            "averages": sum(len(c.decays) for c in subject.callbacks if isinstance(c, StudentEMA)),
        },
        "timed": {"clock": report.clock, "rounds": len(report.rounds), "seconds": report.seconds},
        "step": {
            "seconds": step,
            "quartiles": _quartiles([r.step for r in report.rounds]),
            "floor_seconds": floor,
            "ratio": median(r.step / r.floor for r in report.rounds),
            "ratio_quartiles": _quartiles([r.step / r.floor for r in report.rounds]),
            "method_seconds": method,
            "evaluations_seconds": report.median("evaluations"),
            "optimizer_seconds": report.median("optimizer"),
            "samples_per_second": report.samples_per_second,
            "evaluations_per_second": evaluations / step,
            "flops": side.flops,
            "flops_per_second": achieved,
            "mfu": None if report.peak_flops is None else achieved / report.peak_flops,
        },
        "evaluations_per_sample": {
            n: {k: x / subject.batch_size for k, x in kinds.items()} for n, kinds in rows.items()
        },
        "memory": {
            "measured": measured_memory(report),
            "estimated": report.costs.peak if report.costs else None,
        },
        "profile": breakdown.seconds | {"rest": breakdown.rest},
        "overhead_seconds_per_step": {
            "method": method - floor,
            "lightning": step - method - parts.get(EMA, 0.0) - parts[CHECKS],
            "checks": parts[CHECKS],
            "ema": parts.get(EMA, 0.0),
            "logging": parts[LOGGING] / side.log_every,
            "fid": None if report.fid_seconds is None else report.fid_seconds / subject.val_every,
        },
        "sampling": {
            name: x._asdict()
            | {"ratio": x.whole / x.bare, "samples_per_second": x.samples / x.whole}
            for name, x in report.sampling.items()
        },
        "whole_run": {
            "steps": subject.run_steps,
            "batch": subject.run_batch,
            "device_days": report.device_days,
        },
    }


def measured_memory(report: Report) -> int | None:
    """Peak of the step, bytes: the allocator's own on an accelerator, from its events in the
    profiled step on a CPU.
    """
    breakdown = report.side.breakdown
    return report.side.peak_memory or (breakdown.peak if breakdown else None)


def _quartiles(values: list[float]) -> list[float]:
    return (
        [values[0]] * 2
        if len(values) == 1
        else [quantiles(values, method="inclusive")[k] for k in (0, 2)]
    )
