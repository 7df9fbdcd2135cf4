"""What freeflow reproduce shows: a claim's page, its picture, and the table of all of them."""

import json
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from freeflow_lightning.commands.views.comparison import spread_in_words
from freeflow_lightning.evaluation.claims import FIGURES, Arm
from freeflow_lightning.evaluation.findings import HOLDS, HOLDS_ONCE, NOT_RUN, ClaimResult
from freeflow_lightning.evaluation.methods import Spread
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.colors import OTHERS, STUDENT, TEACHER
from freeflow_lightning.students.export.markdown import plain
from freeflow_lightning.students.export.templates import templates
from freeflow_lightning.training.output_folder import write_bytes

BEGIN, END = "<!-- claims -->", "<!-- end of claims -->"
ON_LOG_SCALE = {"fid", "endpoint_error", "error"}
LONG_LABEL = 8
MARKERS = "osD^v"
"""Of lines: the next one where the colours begin again."""


def claim_markdown(result: ClaimResult) -> str:
    """NAME.md."""
    return (
        templates(__package__)
        .get_template("claim.md")
        .render(
            claim=result.claim,
            size=result.size,
            about=result.about,
            lines=_lines(result),
            findings=_findings(result),
            failures=[(label, text) for label, m in result.methods.items() for text in m.failures],
        )
    )


def _lines(result: ClaimResult) -> list[list[str]]:
    """Return the cells of the page's table: a line for each arm and place, the paper's figure
    first.
    """
    claim = result.claim
    names = list(claim.figures)
    has_paper, axis = bool(claim.paper), claim.read.axis
    head = ["setting", *([axis] if axis else []), *(["the paper's FID"] if has_paper else [])]
    lines = [[*head, *(FIGURES[name] for name in names), "seeds"]]
    for x, row in result.teacher.items():
        cells = [f"{row[name]:.4g}" if name in row else "" for name in names]
        lines.append(["teacher", *([f"{x:g}"] if axis else []), *[""] * has_paper, *cells, ""])
    for label, method in result.methods.items():
        paper = [f"{claim.paper[label]:g}" if label in claim.paper else ""] if has_paper else []
        seeds = f"{len(method.finished)} of {len(method.runs)}"
        for x in method.steps or [1]:
            cells = [spread_in_words(method.final(x, name)) for name in names]
            if not method.finished:
                cells = ["diverged", *[""] * (len(names) - 1)]
            lines.append([label or "student", *([f"{x:g}"] if axis else []), *paper, *cells, seeds])
    return lines


def _findings(result: ClaimResult) -> list[tuple[str, str, str]]:
    """Return what each check says, its verdict, and the two figures."""
    found = []
    for check, finding in zip(result.claim.checks, result.findings(), strict=True):
        figures = ""
        if finding.verdict != NOT_RUN:
            less, than = spread_in_words(finding.less), spread_in_words(finding.than)
            figures = f"{FIGURES[check.figure]} {less} against {than}"
        found.append((finding.say, finding.verdict, figures))
    return found


def plot_claim(result: ClaimResult) -> bytes:
    """NAME.png: a row for each figure, a column for each panel."""
    claim = result.claim
    panels = list(dict.fromkeys(arm.panel for arm in result.arms))
    size = (1.6 + 3.6 * len(panels), 0.9 + 2.5 * len(claim.figures))
    figure, axes = plots.canvas(
        len(claim.figures), len(panels), figsize=size, sharex=True, sharey="row"
    )
    for row, name in zip(axes, claim.figures, strict=True):
        for axis, panel in zip(row, panels, strict=True):
            _draw_panel(axis, result, panel, name)
        row[0].set_ylabel(FIGURES[name], fontsize=9)
    title = "training steps" if claim.over_training else claim.read.axis or claim.x_title
    for first, last, panel in zip(axes[0], axes[-1], panels, strict=True):
        first.set_title(panel, fontsize=10)
        last.set_xlabel(title, fontsize=9)
    plots.legend_below(figure, axes[0, 0], columns=3, fontsize=8)
    figure.suptitle(f"{claim.source}: {claim.title}", fontsize=10)
    return plots.png(figure, 100, "freeflow reproduce")


def _draw_panel(axis: Axes, result: ClaimResult, panel: str, name: str) -> None:
    """One figure of one panel: its lines, and levels across it."""
    claim = result.claim
    arms = [arm for arm in result.arms if arm.panel == panel]
    measured = {arm.line for arm in result.arms}
    drawn = [line for line in (*claim.lines, *claim.levels) if line and line in measured]
    colors = {line: OTHERS[k % len(OTHERS)] for k, line in enumerate(drawn)}
    markers = {line: MARKERS[k // len(OTHERS)] for k, line in enumerate(drawn)}
    for line in claim.lines:
        on_line = [arm for arm in arms if arm.line == line and arm.x in claim.x]
        if on_line:
            joined = "" if claim.x_title and not line else "-"  # a table's rows are not joined
            style = markers.get(line, MARKERS[0]) + joined
            curve = _curve(result, on_line, name)
            _draw_curve(axis, curve, line or "student", style, colors.get(line, STUDENT))
    for level in claim.levels:
        arm = next((arm for arm in arms if arm.line == level), None)
        spread = result.methods[arm.label].final(1, name) if arm else None
        if spread is not None:
            axis.axhline(
                spread.mean, linestyle="-.", color=colors[level], label=level, linewidth=1.2
            )
    _draw_teacher(axis, result, name)
    _name_places(axis, result)
    if name in ON_LOG_SCALE:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.grid(alpha=0.25)
    axis.tick_params(labelsize=8)


def _name_places(axis: Axes, result: ClaimResult) -> None:
    """The labels of settings along the axis, and its scale."""
    claim = result.claim
    if claim.x_title:
        shown = _settings(result)
        axis.set_xticks(range(len(shown)), shown)
        if max(len(x) for x in shown) > LONG_LABEL:
            axis.tick_params(axis="x", labelrotation=20)
    if claim.read.is_log:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")


def _settings(result: ClaimResult) -> list[str]:
    """Return the settings that were measured, in the order of the claim."""
    return [x for x in result.claim.x if any(arm.x == x for arm in result.arms)]


def _curve(result: ClaimResult, arms: Sequence[Arm], name: str) -> list[tuple[float, Spread]]:
    """Return the figure along the axis: of training, of the reading, or of the settings."""
    claim, methods = result.claim, [result.methods[arm.label] for arm in arms]
    first = methods[0]
    places: list[tuple[float, Spread | None]]
    if claim.over_training:
        steps = [point.steps for point in first.finished[0].points] if first.finished else []
        places = [(steps[k], first.at(k, 1, name)) for k in range(first.shared_points)]
    elif claim.read.axis:
        places = [(x, first.final(x, name)) for x in first.steps]
    else:
        titles = _settings(result)
        places = [
            (titles.index(arm.x), method.final(1, name))
            for arm, method in zip(arms, methods, strict=True)
        ]
    return [(x, spread) for x, spread in places if spread is not None]


def _draw_curve(
    axis: Axes, curve: Sequence[tuple[float, Spread]], label: str, style: str, color: str
) -> None:
    """Means with bars of one standard deviation."""
    x = [place for place, _ in curve]
    mean = [spread.mean for _, spread in curve]
    bars = [0.0 if isnan(spread.deviation) else spread.deviation for _, spread in curve]
    axis.errorbar(
        x,
        mean,
        bars,
        fmt=style,
        label=label,
        color=color,
        markersize=3.5,
        linewidth=1.4,
        capsize=2,
    )


def _draw_teacher(axis: Axes, result: ClaimResult, name: str) -> None:
    """The teacher's own figures: a level, or a curve along the axis of the reading."""
    places = [(x, row[name]) for x, row in result.teacher.items() if name in row]
    if not places:
        return
    if result.claim.read.axis:
        axis.plot(*zip(*places, strict=True), "--", color=TEACHER, label="teacher", linewidth=1)
    else:
        axis.axhline(places[0][1], linestyle="--", color=TEACHER, label="teacher", linewidth=1)


def table_of(folder: Path, link: str) -> str:
    """Return the table of all results of a folder, a line for each claim in the order of their
    files' names.

    Args:
        folder: with the NAME.json of `freeflow reproduce`.
        link: of the folder, from the page that shows the table.
    """
    lines = ["| claim | the paper says | measured here | runs |", "| --- | --- | --- | --- |"]
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        lines.append(_table_line(content, link))
    return "\n".join(lines)


def _table_line(content: dict[str, Any], link: str) -> str:
    claim, size = content["claim"], content["size"]
    measured = [f for f in content["findings"] if f["verdict"] != NOT_RUN]
    held = [f for f in measured if f["verdict"] in (HOLDS, HOLDS_ONCE)]
    verdict = f"{len(held)} of {len(measured)} hold"
    several = "seeds" if size["seeds"] > 1 else "seed"
    runs = f"{len(content['arms'])} x {size['seeds']} {several}, {size['amount']:g} {size['unit']}"
    name = f"[{claim['name']}]({link}/{claim['name']}.md)"
    cells = [name, f"{claim['source']}: {claim['statement']}", verdict, runs]
    return f"| {cells[0]} | {' | '.join(plain(cell) for cell in cells[1:])} |"


def update_table(page: Path, folder: Path) -> None:
    """Write the table of a folder's results into a page, between its two marks.

    Raises:
        FileNotFoundError: no such page.
        ValueError: a page without the marks.
    """
    if not page.is_file():
        raise FileNotFoundError(f"no page at {page}: expected Markdown with {BEGIN} and {END}")
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN} and {END} in {page}, where the table goes")
    table = table_of(folder, folder.name)
    write_bytes(page, f"{before}{BEGIN}\n{table}\n{END}{after}".encode())
