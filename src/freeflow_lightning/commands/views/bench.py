"""The tables that freeflow bench shows."""

from typing import Any

from rich.console import Console
from rich.table import Table

from freeflow_lightning.profiling.bench_report import OVERHEADS, BenchReport


def show_bench(console: Console, report: BenchReport, figures: dict[str, Any]) -> None:
    """The figures as tables."""
    subject, step, facts = report.subject, figures["step"], figures["machine"]
    console.print(
        f"{subject.name}, batch {subject.batch_size}, precision {subject.precision}",
        style="bold",
        markup=False,
    )
    console.print(
        f"{facts['device']}, {facts['threads']} thread(s), torch {facts['torch']}; medians of "
        f"{_rounds(report)}, {report.clock}\n",
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
        f"A whole run of {subject.run_steps:,} steps of {subject.run_batch}: "
        f"{subject.run_steps:,} x {subject.run_batch} / "
        f"{report.samples_per_second:,.4g} samples/s / 86,400 s = {_count(report.device_days)} "
        f"days of this device."
    )


def _rounds(report: BenchReport) -> str:
    """Return what medians are of; where steps are of several kinds, of the mean of each turn."""
    turns, turn = len(report.turns), report.side.turn
    return f"{turns} rounds" if turn == 1 else f"{turns} turns of {turn} steps"


def _step_table(report: BenchReport, step: dict[str, Any]) -> Table:
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


KINDS = {
    "forward": "forward",
    "backward": "forward + backward",
    "derivative": "forward-mode derivative",
    "derivative and backward": "derivative + backward",
}
"""Columns of evaluations, as far as a step makes them."""


def _evaluations_table(figures: dict[str, Any]) -> Table:
    found = figures["evaluations_per_sample"]
    made = {kind for kinds in found.values() for kind in kinds}
    shown = {kind: title for kind, title in KINDS.items() if kind in made}
    table = _table("evaluations per sample", *shown.values())
    for name, kinds in found.items():
        table.add_row(name, *(f"{kinds.get(kind, 0):.4g}" for kind in shown))
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


def _sampling_table(report: BenchReport) -> Table:
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


def _count(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"
