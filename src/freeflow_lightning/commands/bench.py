"""freeflow bench: a training step, measured against the bare network evaluations that it needs."""

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from freeflow_lightning.callbacks import (
    AlphaSchedule,
    ConfidentRegionWarmup,
    NetworkSummary,
    PeriodicFID,
    SampleGrid,
    StudentEMA,
    TrajectoryError,
)
from freeflow_lightning.commands.config import build, parsed_fit
from freeflow_lightning.commands.fit import quiet
from freeflow_lightning.commands.inspect import PRECISIONS_OF, arrange
from freeflow_lightning.commands.parser import BriefErrors
from freeflow_lightning.profiling.hardware import machine, peak_flops
from freeflow_lightning.profiling.step_memory import Costs, PrecisionName, SizeName, estimate, sit_teacher, without_data
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
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.recipes.freeflow import FreeFlowModule
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.data import PriorDataModule
from freeflow_lightning.training.output_folder import claim_names, publish
from freeflow_lightning.training.run_folder import MetricsCSV

USAGE = """freeflow bench --config CONFIG [--model.NAME VALUE ...] [options]
       freeflow bench --size XL/2 --image_size 256 --batch_size 64 [options]

for example
       freeflow bench --config configs/digits.yaml
       freeflow bench --size B/2 --batch_size 64 --precision bf16-mixed --compile --output bench.json"""

ABOUT = (
    "Times training steps, whole and in parts, beside the bare network evaluations that they need (the floor). One thread on a "
    "CPU is timed by its own CPU time, so that other programs do not count: OMP_NUM_THREADS=1 freeflow bench ... Nothing is "
    "saved and no validation is run. Schedules are at their end: no confident-region warmup, alpha = alpha_ref."
)

PRECISION_OF_TRAINER: dict[str, Any] = {"32": "32-true", "bf16-mixed": "bf16-mixed", "bf16-true": "bf16-true"}
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
    make: Callable[[Teacher], FreeFlowModule]
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


def bench(
    config: str | None = None,
    size: SizeName | None = None,
    image_size: int = 256,
    batch_size: int | None = None,
    precision: PrecisionName | None = None,
    compile: bool = False,
    steps: int = 20,
    device: str = "auto",
    output: str | None = None,
    overrides: list[str] | None = None,
) -> None:
    """Measure a training step: what `freeflow bench` does.

    Args:
        config: a config of `freeflow fit`; --model.*, --data.* and --trainer.* change it as in fit.
        size: instead of a config, a published size of SiT with random weights and the paper's settings.
        image_size: of the pictures, with --size.
        batch_size: samples per step; the config's, or 8.
        precision: 32, bf16-mixed or bf16-true; the config's, or 32.
        compile: compile student, auxiliary network and teacher. All rows are then evaluated (skip_idle_rows off), so that
            every call has a fixed shape.
        steps: rounds to take the median of: a step of the Trainer, the method alone and the bare evaluations, in turn.
        device: cpu, cuda, ...; auto takes an accelerator if there is one.
        output: a JSON file to write everything to as well.
        overrides: set by --model.*, --data.* and --trainer.*.
    """
    if (config is None) == (size is None):
        raise ValueError("expected one thing to measure: give --config FILE or --size XL/2")
    if overrides and not config:
        raise ValueError(f"{overrides[0]} changes a config: give one with --config, or leave it out")
    if steps < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(f"expected at least one step and a batch of at least one, got {steps} and {batch_size}")
    if output is not None:
        claim_names(Path(output).parent, Path(output).name, "bench", [])
    subject = from_config(config, overrides or []) if config else from_size(size or "S/2", image_size)
    subject = subject._replace(batch_size=batch_size or subject.batch_size, precision=precision or subject.precision)
    report = measure(subject, pick_device(device), rounds=steps, compiled=compile)
    facts = {"command": " ".join(["freeflow", *sys.argv[1:]]), "machine": machine(pick_device(device))}
    figures = facts | as_figures(report) | {"compiled": report.compiled}
    show(Console(highlight=False), report, figures)
    if output is not None:
        publish(Path(output).parent, Path(output).name, "bench", figures, {})
        print(f"all figures in {output}")


# What is measured


def from_size(size: SizeName, image_size: int) -> Subject:
    """A SiT of a published size with random weights, and the paper's settings."""

    def make(teacher: Teacher) -> FreeFlowModule:
        return FreeFlowModule(teacher, check_teacher=False)  # random weights have no direction of time

    return Subject(
        name=f"SiT-{size} with random weights, {image_size} x {image_size}",
        teacher=sit_teacher(size, image_size),
        make=make,
        batch_size=8,
        precision="32",
        callbacks=[StudentEMA()],
        run_steps=TABLE_6_STEPS.get(image_size, TABLE_6_STEPS[512]),
    )


def from_config(path: str, overrides: list[str]) -> Subject:
    """A config of fit: its model, and of its trainer what counts for a step."""
    fit = parsed_fit(path, overrides)
    model = fit.model.as_dict()
    if "teacher" not in model.get("init_args", {}):
        raise ValueError(f"{path} distils no teacher: its model is {model['class_path']}, expected FreeFlowModule")
    teacher = build(Teacher, model["init_args"].pop("teacher"))

    def make(given: Teacher) -> FreeFlowModule:
        return build(Recipe, model | {"init_args": model["init_args"] | {"teacher": given, "check_teacher": False}})

    callbacks = [build(Callback, callback.as_dict()) for callback in fit.trainer.callbacks or []]
    data, settings = fit.data.init_args, fit.trainer
    precision = str(settings.precision or 32)
    if precision not in PRECISIONS_OF:
        raise ValueError(f"precision {precision!r} is not measured: give --precision, one of {set(PRECISIONS_OF.values())}")
    devices = settings.devices if isinstance(settings.devices, int) else 1
    return Subject(
        name=f"{path}: {type(teacher).__name__}",
        teacher=teacher,
        make=make,
        batch_size=data.batch_size,
        precision=PRECISIONS_OF[precision],  # type: ignore[arg-type]  # of costs.PRECISIONS
        callbacks=callbacks,
        log_every=settings.log_every_n_steps or 50,
        clip=settings.gradient_clip_val,
        run_steps=settings.max_steps,
        run_batch=data.batch_size * devices * settings.num_nodes * settings.accumulate_grad_batches,
        fid=next((callback for callback in callbacks if isinstance(callback, PeriodicFID)), None),
        val_samples=data.val_samples,
        val_batch_size=data.val_batch_size,
        val_every=data.length,
        seed=data.seed,
    )


# Measuring


def measure(subject: Subject, device: torch.device, *, rounds: int, compiled: bool) -> Report:
    """Train a few steps in a Trainer of its own, with loggers in a temporary folder, and sample a little."""
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
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=PRECISION_OF_TRAINER[subject.precision],
            callbacks=[*steady, side],
            logger=[MetricsCSV(folder, "bench", 0), TensorBoardLogger(folder, "bench", 0, default_hp_metric=False)],
            log_every_n_steps=subject.log_every,
            gradient_clip_val=subject.clip,
            max_steps=side.steps,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, PriorDataModule(subject.batch_size, length=side.steps, seed=subject.seed))
        module.to(device)  # a Trainer leaves it on the CPU
        options: dict[str, Any] = {"rounds": max(3, rounds // 2), "context": trainer.precision_plugin.forward_context}
        drawn = {
            "student": one_step_sampling(module, subject.batch_size, clock, **options),
            "teacher": teacher_sampling(module, subject.batch_size, clock, **options),
        }
        fid = fid_seconds(subject, module, clock)
    peak = peak_flops(machine(device)["device"], subject.precision)
    return Report(subject, costs, side, drawn, fid, peak, clock.name, time.perf_counter() - start, compiled)


def estimated(subject: Subject) -> Costs | None:
    """What `freeflow inspect` says of this step; None for a teacher that it cannot follow."""
    averages = sum(len(callback.decays) for callback in subject.callbacks if isinstance(callback, StudentEMA))
    stand_in = without_data(subject.teacher)
    try:
        return estimate(
            lambda: subject.make(stand_in), batch_size=subject.batch_size, precision=subject.precision, averages=averages
        )
    except ValueError:
        return None


@torch.no_grad()
def fid_seconds(subject: Subject, module: FreeFlowModule, clock: Clock) -> float | None:
    """Of one validation with PeriodicFID, its reference cached: two batches and a distance measured, the rest counted."""
    if subject.fid is None or not subject.val_samples:
        return None
    metric = subject.fid.metric.to(module.device)
    z, condition = module.teacher.draw_indexed(
        torch.arange(subject.val_batch_size), seed=0, stream="bench", device=module.device
    )
    metric.update(pictures(module.teacher, module.generate(z, condition)), real=True)  # any reference takes as long

    def batch() -> None:
        index = torch.arange(subject.val_batch_size)
        z, condition = module.teacher.draw_indexed(index, seed=0, stream="bench", device=module.device)
        metric.update(pictures(module.teacher, module.generate(z, condition)), real=False)

    once = min(clock(batch), clock(batch))
    return once * subject.val_samples / subject.val_batch_size + clock(metric.compute)


# What is said


def as_figures(report: Report) -> dict[str, Any]:
    """Everything, as JSON has it; seconds, bytes, FLOPs and samples without prefixes."""
    subject, side, breakdown, parts = report.subject, report.side, report.side.breakdown, report.side.parts
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
        "evaluations_per_sample": {n: {k: x / subject.batch_size for k, x in kinds.items()} for n, kinds in rows.items()},
        "memory": {"measured": measured_memory(report), "estimated": report.costs.peak if report.costs else None},
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
            name: x._asdict() | {"ratio": x.whole / x.bare, "samples_per_second": x.samples / x.whole}
            for name, x in report.sampling.items()
        },
        "whole_run": {"steps": subject.run_steps, "batch": subject.run_batch, "device_days": report.device_days},
    }


def measured_memory(report: Report) -> int | None:
    """Peak of the step, bytes: the allocator's own on an accelerator, from its events in the profiled step on a CPU."""
    breakdown = report.side.breakdown
    return report.side.peak_memory or (breakdown.peak if breakdown else None)


def show(console: Console, report: Report, figures: dict[str, Any]) -> None:
    """The figures as tables."""
    subject, step, facts = report.subject, figures["step"], figures["machine"]
    console.print(f"{subject.name}, batch {subject.batch_size}, precision {subject.precision}", style="bold", markup=False)
    console.print(
        f"{facts['device']}, {facts['threads']} thread(s), torch {facts['torch']}; medians of {len(report.rounds)} rounds, "
        f"{report.clock}\n",
        markup=False,
    )
    console.print(_step_table(report, step))
    console.print(_evaluations_table(figures))
    console.print(_profile_table(figures))
    console.print(_sampling_table(report))
    memory = figures["memory"]
    said = [f"{name} {_gib(size)}" for name, size in memory.items() if size]
    console.print(f"Peak memory: {', '.join(said) or 'not measured'}.")
    console.print(
        f"A whole run of {subject.run_steps:,} steps of {subject.run_batch}: {subject.run_steps:,} x {subject.run_batch} / "
        f"{report.samples_per_second:,.4g} samples/s / 86,400 s = {_count(report.device_days)} days of this device."
    )


def _step_table(report: Report, step: dict[str, Any]) -> Table:
    table = _table("one training step", "ms", "of the floor")
    floor = step["floor_seconds"]

    def row(name: str, seconds: float, **options: Any) -> None:
        table.add_row(name, f"{1e3 * seconds:,.4g}", f"{seconds / floor:.3f}", **options)

    row("bare network evaluations", step["evaluations_seconds"])
    row("optimizer", step["optimizer_seconds"])
    row("floor: both", floor, end_section=True)
    row("the method in a plain loop", step["method_seconds"])
    low, high = step["ratio_quartiles"]
    table.add_row(
        "step: in a Trainer, with EMA and callbacks",
        f"{1e3 * step['seconds']:,.4g}",
        f"{step['ratio']:.3f} ({low:.3f} .. {high:.3f})",
        style="bold",
        end_section=True,
    )
    table.add_row("samples / s", f"{step['samples_per_second']:,.4g}", "")
    table.add_row("network evaluations / s", f"{step['evaluations_per_second']:,.4g}", "")
    mfu = "-" if step["mfu"] is None else f"{100 * step['mfu']:.1f} %"
    table.add_row("TFLOP / s, MFU", f"{1e-12 * step['flops_per_second']:.3g}", mfu)
    return table


def _evaluations_table(figures: dict[str, Any]) -> Table:
    table = _table("evaluations per sample", "forward", "forward + backward", "forward-mode derivative")
    for name, kinds in figures["evaluations_per_sample"].items():
        table.add_row(name, *(f"{kinds.get(kind, 0):.4g}" for kind in ("forward", "backward", "derivative")))
    return table


def _profile_table(figures: dict[str, Any]) -> Table:
    table = _table("where a profiled, logged step goes", "ms", "share")
    total = sum(figures["profile"].values())
    for part, seconds in figures["profile"].items():
        table.add_row(part, f"{1e3 * seconds:,.4g}", f"{100 * seconds / total:.2f} %")
    table.add_section()
    for name, seconds in figures["overhead_seconds_per_step"].items():
        if seconds is not None:
            share = f"{100 * seconds / figures['step']['seconds']:.2f} % of a step"
            table.add_row(OVERHEADS[name], f"{1e3 * seconds:,.4g}", share)
    return table


def _sampling_table(report: Report) -> Table:
    table = _table("sampling", "samples / s", "of the bare evaluations' time")
    for name, x in report.sampling.items():
        how = "one step" if name == "student" else f"{x.evaluations // x.samples} evaluations each"
        table.add_row(f"{name}, {how}", f"{x.samples / x.whole:,.4g}", f"{x.whole / x.bare:.3f}")
    return table


def _table(*columns: str) -> Table:
    table = Table()
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _quartiles(values: list[float]) -> list[float]:
    return [values[0]] * 2 if len(values) == 1 else [quantiles(values, method="inclusive")[k] for k in (0, 2)]


def _count(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


# The command line


def main() -> None:
    """Parse the command line of `freeflow bench`."""
    quiet()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    parser = BriefErrors(prog="freeflow bench", usage=USAGE, description=ABOUT)
    parser.add_function_arguments(bench, as_group=False, skip={"overrides"})
    own, overrides = arrange(sys.argv[2:])
    chosen = parser.instantiate_classes(parser.parse_args(own))
    bench(**chosen.as_dict(), overrides=overrides)
