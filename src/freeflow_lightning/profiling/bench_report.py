"""What a bench has measured, and its figures as JSON has them."""

from statistics import median, quantiles
from typing import Any, NamedTuple

from freeflow_lightning.profiling.bench_subject import BenchSubject, count_averages
from freeflow_lightning.profiling.rounds import Round, mean_rows
from freeflow_lightning.profiling.sampling_time import Sampling
from freeflow_lightning.profiling.step_memory import Costs
from freeflow_lightning.profiling.step_parts import CHECKS, EMA, LOGGING
from freeflow_lightning.profiling.step_time import SideBySide

OVERHEADS = {
    "method": "drawing and loss terms: plain loop - floor",
    "lightning": "Lightning, other callbacks: step - plain loop - next two",
    "checks": "gradient norms and checks",
    "ema": "EMA",
    "logging": "logging, spread over the steps between",
    "fid": "PeriodicFID, spread over the steps between",
}
"""What a step costs beside its floor, by its name in the JSON file."""


class BenchReport(NamedTuple):
    """Everything that was measured."""

    subject: BenchSubject
    costs: Costs | None
    side: SideBySide
    sampling: dict[str, Sampling]
    fid_seconds: float | None
    peak_flops: float | None
    clock: str
    seconds: float
    compiled: bool

    @property
    def turns(self) -> list[Round]:
        """Rounds, of which each is the mean of a turn."""
        return self.side.turns

    def median(self, part: str) -> float:
        """Seconds of a Round's part, of the average step."""
        return median(getattr(measured, part) for measured in self.turns)

    @property
    def samples_per_second(self) -> float:
        return self.subject.batch_size / self.median("step")

    @property
    def device_days(self) -> float:
        """Of the whole run, on one such device."""
        return self.subject.run_steps * self.subject.run_batch / self.samples_per_second / 86_400


def as_figures(report: BenchReport) -> dict[str, Any]:
    """Everything, as JSON has it; seconds, bytes, FLOPs and samples without prefixes."""
    subject, breakdown = report.subject, report.side.breakdown
    assert breakdown is not None  # the last step is profiled
    rows = mean_rows(report.turns)
    return {
        "subject": {
            "name": subject.name,
            "batch_size": subject.batch_size,
            "precision": subject.precision,
            "averages": count_averages(subject),
        },
        "timed": {
            "clock": report.clock,
            "rounds": len(report.side.rounds),
            "seconds": report.seconds,
        },
        "step": _step_figures(report, sum(n for kinds in rows.values() for n in kinds.values())),
        "evaluations_per_sample": {
            n: {k: x / subject.batch_size for k, x in kinds.items()} for n, kinds in rows.items()
        },
        "memory": {
            "measured": measure_peak(report),
            "estimated": report.costs.peak if report.costs else None,
        },
        "profile": breakdown.seconds | {"rest": breakdown.rest},
        "overhead_seconds_per_step": _overheads(report),
        "sampling": {name: _sampling_figures(x) for name, x in report.sampling.items()},
        "whole_run": {
            "steps": subject.run_steps,
            "batch": subject.run_batch,
            "device_days": report.device_days,
        },
        "compiled": report.compiled,
    }


def _step_figures(report: BenchReport, evaluations: float) -> dict[str, Any]:
    step = report.median("step")
    ratios = [r.step / r.floor for r in report.turns]
    achieved = report.side.flops / step
    return {
        "seconds": step,
        "quartiles": _quartiles([r.step for r in report.turns]),
        "floor_seconds": report.median("floor"),
        "ratio": median(ratios),
        "ratio_quartiles": _quartiles(ratios),
        "method_seconds": report.median("method"),
        "evaluations_seconds": report.median("evaluations"),
        "optimizer_seconds": report.median("optimizer"),
        "samples_per_second": report.samples_per_second,
        "evaluations_per_second": evaluations / step,
        "flops": report.side.flops,
        "flops_per_second": achieved,
        "mfu": None if report.peak_flops is None else achieved / report.peak_flops,
    }


def _overheads(report: BenchReport) -> dict[str, float | None]:
    """Seconds of a step beside its floor, by the names of OVERHEADS."""
    step, method, parts = report.median("step"), report.median("method"), report.side.parts
    ema, fid = parts.get(EMA, 0.0), report.fid_seconds
    return {
        "method": method - report.median("floor"),
        "lightning": step - method - ema - parts[CHECKS],
        "checks": parts[CHECKS],
        "ema": ema,
        "logging": parts[LOGGING] / report.side.log_every,
        "fid": None if fid is None else fid / report.subject.val_every,
    }


def _sampling_figures(sampling: Sampling) -> dict[str, float]:
    return sampling._asdict() | {
        "ratio": sampling.whole / sampling.bare,
        "samples_per_second": sampling.samples / sampling.whole,
    }


def measure_peak(report: BenchReport) -> int | None:
    """Peak of the step, bytes: the allocator's own on an accelerator, from its events in the
    profiled step on a CPU.
    """
    breakdown = report.side.breakdown
    return report.side.peak_memory or (breakdown.peak if breakdown else None)


def _quartiles(values: list[float]) -> list[float]:
    if len(values) == 1:
        return [values[0]] * 2
    low, _, high = quantiles(values, method="inclusive")
    return [low, high]
