"""What freeflow compare shows: comparison.md and comparison.png."""

from collections.abc import Sequence
from math import floor, isfinite, isnan, log10

from matplotlib.axes import Axes

from freeflow_lightning.evaluation.methods import Method, MethodComparison, Run, Spread
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.colors import OTHERS, TEACHER
from freeflow_lightning.students.export.templates import templates

NOTE, PAGE, PLOT = "comparison.json", "comparison.md", "comparison.png"

ON_LOG_SCALE = {"fid", "fid_to_statistics", "endpoint_error"}
LINES = ("-", "--", ":")


def describe_run(run: Run) -> str:
    """Return one line that says how a run has ended.

    >>> describe_run(Run("meanflow", 1, 0.5, failure="diverged at step 3"))
    'meanflow, seed 1, rate 0.5: diverged at step 3'
    """
    head = f"{run.method}, seed {run.seed}, rate {run.rate:g}"
    if run.failure:
        return f"{head}: {run.failure}"
    last = run.points[-1]
    scores = ", ".join(f"{row['fid']:.3g} at {k}" for k, row in last.figures.items())
    return f"{head}: {last.steps} steps, {last.total:.4g} evaluations; FID {scores}"


def spread_in_words(spread: Spread | None) -> str:
    """Return a mean with its deviation, both to two digits of the deviation; whole numbers are not
    rounded.

    >>> spread_in_words(Spread(1.5234, 0.0512)), spread_in_words(Spread(339.31, 104.2))
    ('1.523 ± 0.051', '339 ± 104')
    >>> spread_in_words(Spread(1.5234, float("nan"))), spread_in_words(None)
    ('1.523', '')
    """
    if spread is None:
        return ""
    mean = "not finite" if isnan(spread.mean) else f"{spread.mean:.4g}"
    if isnan(spread.deviation):
        return mean
    if not spread.deviation or not isfinite(spread.mean + spread.deviation):
        return f"{mean} ± {spread.deviation:.2g}"
    decimals = max(0, 1 - floor(log10(spread.deviation)))
    return f"{spread.mean:.{decimals}f} ± {spread.deviation:.{decimals}f}"


def comparison_markdown(comparison: MethodComparison) -> str:
    """comparison.md."""
    return (
        templates(__package__)
        .get_template("comparison.md")
        .render(
            comparison=comparison,
            figures=_figure_lines(comparison),
            costs=_cost_lines(comparison),
            failures=[(m.name, text) for m in comparison.methods for text in m.failures],
            sweeps=[method for method in comparison.methods if len(method.tried) > 1],
            plot=PLOT,
        )
    )


def _figure_lines(comparison: MethodComparison) -> list[list[str]]:
    """Return the cells of the table: a line for each method and number of steps."""
    names = list(comparison.figures)
    lines = [["method", "steps", *comparison.figures.values(), "seeds"]]
    floor = [f"{comparison.floor[name]:.4g}" if name in comparison.floor else "" for name in names]
    lines.append(["teacher, its own samples again", "", *floor, ""])
    for steps, row in comparison.teacher.items():
        cells = [f"{row[name]:.4g}" for name in names]
        lines.append(["teacher, Euler steps", str(steps), *cells, ""])
    for method in comparison.methods:
        lines += _lines_of_method(method, names)
    return lines


def _lines_of_method(method: Method, names: Sequence[str]) -> list[list[str]]:
    seeds = f"{len(method.finished)} of {len(method.runs)}"
    if not method.finished:
        return [[method.name, "", "diverged", *[""] * (len(names) - 1), seeds]]
    lines = []
    for steps in method.steps:
        cells = [spread_in_words(method.final(steps, name)) for name in names]
        lines.append([method.name, str(steps), *cells, seeds])
    return lines


def _cost_lines(comparison: MethodComparison) -> list[list[str]]:
    """Return the cells of the table of costs: what each method has spent, its first seed."""
    networks = ("student", "auxiliary", "teacher")
    lines = [["method", "rate", "training steps", "evaluations", *networks]]
    for method in comparison.methods:
        run = next(iter(method.finished), None)
        if run is None:
            lines.append([method.name, f"{method.rate:g}", "diverged", "", "", "", ""])
            continue
        last = run.points[-1]
        shares = [f"{last.evaluations.get(name, 0) / last.total:.0%}" for name in networks]
        cells = [f"{method.rate:g}", str(last.steps), str(last.total), *shares]
        lines.append([method.name, *cells])
    return lines


def plot_comparison(comparison: MethodComparison) -> bytes:
    """comparison.png: a row for each figure, a column for each number of steps, over
    evaluations.
    """
    names = comparison.figures
    columns = sorted({steps for method in comparison.methods for steps in method.steps}) or [1]
    figure, axes = plots.canvas(
        len(names),
        len(columns),
        figsize=(2.5 + 2.7 * len(columns), 0.9 + 2.1 * len(names)),
        sharex=True,
        sharey="row",
    )
    for line, (name, title) in zip(axes, names.items(), strict=True):
        for axis, steps in zip(line, columns, strict=True):
            _draw_panel(axis, comparison, name, steps)
        line[0].set_ylabel(title, fontsize=9)
    for axis, steps in zip(axes[0], columns, strict=True):
        axis.set_title(f"{steps} step{'s' * (steps > 1)}", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel("evaluations spent in training", fontsize=9)
    plots.legend_below(figure, axes[0, 0], columns=len(columns) + 1, fontsize=9)
    return plots.png(figure, 100, "freeflow compare")


def _draw_panel(axis: Axes, comparison: MethodComparison, name: str, steps: float) -> None:
    """A figure of all methods at one number of steps; bands are one deviation wide on each side."""
    for place, method in enumerate(comparison.methods):
        curve = method.curve(steps, name)
        x = [spent for spent, _ in curve]
        mean = [spread.mean for _, spread in curve]
        color = OTHERS[place % len(OTHERS)]
        style = LINES[place // len(OTHERS) % len(LINES)]
        axis.plot(x, mean, style, color=color, label=method.name, marker="o", markersize=2.5)
        if curve and not isnan(curve[0][1].deviation):
            low = [spread.mean - spread.deviation for _, spread in curve]
            high = [spread.mean + spread.deviation for _, spread in curve]
            axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    _draw_level(axis, comparison.teacher[steps][name], "--", "teacher, Euler")
    if name in comparison.floor:
        _draw_level(axis, comparison.floor[name], ":", "teacher itself")
    if name in ON_LOG_SCALE:
        axis.set_yscale("log")
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=8)


def _draw_level(axis: Axes, value: float, style: str, label: str) -> None:
    axis.axhline(value, linestyle=style, label=label, color=TEACHER, linewidth=1)
