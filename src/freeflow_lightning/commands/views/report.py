"""What a report shows: report.md, report.html and their pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from freeflow_lightning.commands.views.page import Finding, Section
from freeflow_lightning.evaluation.steps_table import Line
from freeflow_lightning.evaluation.trajectory_errors import TrajectoryErrors
from freeflow_lightning.sampling import plots, training_plot
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.sampling.picture_rows import caption_classes, picture_rows
from freeflow_lightning.students.export.templates import templates
from freeflow_lightning.students.flow_map import FlowMap

PATHS, TRAINING = "trajectories.png", "training.png"
SHOWN = {
    "comparison.png": ("Samples", "The same noise through teacher and student, column by column."),
    PATHS: ("Paths", "From noise to data: the teacher's ODE, and the student's f(z, delta)."),
    "error_along_delta.png": (
        "Error along delta",
        "How far f(z, delta) is from the teacher's path at the same time (Fig. 4 of the paper).",
    ),
    TRAINING: ("Training", "Every figure of the training is in metrics.csv."),
}
"""The pictures of a report, with heading and words; a report holds those that it has a reason
for.
"""
PICTURES = tuple(SHOWN)
REFERENCES = {
    "teacher": "the teacher's own samples (64 Heun steps, other noise)",
    "digits": "scikit-learn's 1797 real digits",
    "faces": "2000 real faces",
}
"""What FID is to."""


def draw_pictures(
    student: FlowMap,
    shown: Mapping[str, Tensor],
    labels: Tensor | None,
    paths: TrajectoryErrors,
    class_names: Sequence[str],
    logged: list[dict[str, float]],
) -> dict[str, bytes]:
    """Return every picture of a report, as the bytes of a PNG by its name.

    Args:
        student: that the report is of.
        shown: samples by the name of their sampler.
        labels: their classes.
        paths: of student and teacher.
        class_names: what the classes are called, as far as that is known.
        logged: rows of the run's metrics.csv; none for a student of no run.
    """
    first = {name: pictures(student.teacher, x).cpu() for name, x in shown.items()}
    classes = student.teacher.num_classes
    drawn = {"comparison.png": plots.png(compare_lines(first, labels, classes, class_names), 130)}
    if student.pairs.leads_between:
        if student.teacher.sample_shape == (2,):
            drawn[PATHS] = plots.png(plots.trajectories(paths.teacher, paths.student))
        curve = plots.curves(
            {"student": (paths.delta, paths.errors.mean(1))},
            xlabel="delta",
            ylabel="relative error",
            title="error along delta (Fig. 4)",
        )
        drawn["error_along_delta.png"] = plots.png(curve)
    if logged:
        drawn[TRAINING] = plots.png(training_plot.training(logged, student.about.get("curves")))
    return drawn


def compare_lines(
    first: Mapping[str, Tensor], labels: Tensor | None, classes: int, names: Sequence[str]
) -> Figure:
    """Return the samplers' pictures below each other, or the densities of points."""
    if next(iter(first.values())).ndim != 4:
        last = [name for name in first if name.startswith("teacher")][-1]
        students = [name for name in first if name.startswith("student")]
        return plots.densities({name: plots.plane(first[name]) for name in (last, *students)})
    columns = slice(12) if labels is None else one_per_class(labels, classes)
    return picture_rows(
        {name: x[columns] for name, x in first.items()},
        "the same noise, column by column",
        caption_classes(None if labels is None else labels[columns].tolist(), names),
    )


def one_per_class(labels: Tensor, classes: int) -> Tensor:
    """Return the first two samples of each class, class by class."""
    return torch.cat([(labels == k).nonzero()[:2, 0] for k in range(min(classes, 10))])


def cells(lines: Sequence[Line]) -> list[list[str]]:
    """Return the figures in words, the header first."""
    recognised = any(line.accuracy is not None for line in lines)
    header = ["sampler", "guidance", "evaluations", "FID", "endpoint error"]
    header += ["recognised"] if recognised else []
    rows = [[*header, "ms / sample"]]
    for x in lines:
        seen = [f"{x.accuracy:.1%}"] if x.accuracy is not None else [""]
        row = [x.name, f"{x.guidance:g}", str(x.evaluations), f"{x.fid:.4g}", f"{x.endpoint:.3f}"]
        row += seen if recognised else []
        rows.append([*row, f"{x.milliseconds:.3f}"])
    return rows


def table(lines: Sequence[Line]) -> list[str]:
    """Return the figures as Markdown."""
    header, *rows = cells(lines)
    rule = ["---", *["---:" for _ in header[1:]]]
    return [f"| {' | '.join(row)} |" for row in (header, rule, *rows)]


def key_lines(lines: Sequence[Line]) -> tuple[Line, Line, Line]:
    """Return the student, and its teacher at 64 steps and at 2 of the same guidance."""
    student = next(x for x in lines if x.name.startswith("student"))
    many, two = (
        next(x for x in lines if x.name == f"teacher, {k} steps" and x.guidance == student.guidance)
        for k in (64, 2)
    )
    return student, many, two


def report_text(
    title: str, lines: Sequence[Line], shown: Sequence[str], facts: Mapping[str, Any]
) -> str:
    """report.md."""
    student, many, two = key_lines(lines)
    return (
        templates(__package__)
        .get_template("report.md")
        .render(
            title=title,
            student=student,
            steps=student.name.removeprefix("student, "),
            many=many,
            two=two,
            count=facts["samples"],
            reference=facts["reference"],
            features=facts["features"],
            against=REFERENCES[facts["reference"]],
            floor=facts["floor"],
            table=table(lines),
            shown=shown,
        )
    )


def facts_in_words(facts: Mapping[str, Any]) -> str:
    """Return how the figures were made, in a line or two."""
    against = REFERENCES[facts["reference"]]
    words = (
        f"{facts['samples']} samples from the same noise and conditions, seed {facts['seed']}. FID "
        f"is to {against}, seen with {facts['features']}; the endpoint error is the mean of "
        "|x - y| / |y| against the 64-step teacher y of the same guidance; a guided teacher step of "
        "Heun takes four evaluations."
    )
    if facts["floor"] is not None:
        words += f" Two halves of the real pictures have FID {facts['floor']:.4g} to each other."
    return words


def parts(
    lines: Sequence[Line], pictures: Mapping[str, bytes], facts: Mapping[str, Any]
) -> tuple[list[Finding], list[Section]]:
    """Return what report.html says: findings, then the figures and the pictures."""
    student, many, two = key_lines(lines)
    found = [
        _compare(student, many, "its teacher at 64 Heun steps", student.fid <= 2 * many.fid),
        _compare(student, two, "its teacher at 2 Heun steps", student.fid < two.fid),
    ]
    sections = [Section("Figures", "", [], cells(lines))]
    for name, (title, words) in SHOWN.items():
        if name in pictures:
            sections.append(Section(title, words, [pictures[name]], []))
    return found, sections


def _compare(student: Line, teacher: Line, name: str, is_good: bool) -> Finding:
    times = f"FID {student.fid:.4g}, {student.fid / teacher.fid:.3g} times {teacher.fid:.4g}"
    return Finding("good" if is_good else "look", f"{student.name}, beside {name}", times)
