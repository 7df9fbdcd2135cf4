"""What freeflow report shows: report.md and its pictures."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from freeflow_lightning.evaluation.steps_table import Line
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.students.export.templates import templates
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.training.run_folder import read_metrics

PATHS = "trajectories.png"


PICTURES = ("comparison.png", "error_along_delta.png", "training.png", PATHS)


def draw_pictures(
    folder: Path,
    student: FlowMap,
    shown: dict[str, Tensor],
    labels: Tensor | None,
    paths: dict[str, Tensor],
    class_names: Sequence[str] = (),
) -> dict[str, bytes]:
    """Every picture that report.md shows, as the bytes of a PNG by its name."""
    drawn = {}
    first = {name: pictures(student.teacher, x).cpu() for name, x in shown.items()}
    if next(iter(first.values())).ndim == 4:
        columns = (
            slice(12) if labels is None else one_per_class(labels, student.teacher.num_classes)
        )
        figure = plots.picture_rows(
            {name: x[columns] for name, x in first.items()},
            "the same noise, column by column",
            caption_columns(None if labels is None else labels[columns], class_names),
        )
    else:
        last = [name for name in first if name.startswith("teacher")][-1]
        students = [name for name in first if name.startswith("student")]
        figure = plots.densities({name: plots.plane(first[name]) for name in (last, *students)})
    if student.teacher.sample_shape == (2,):
        drawn[PATHS] = plots.png(plots.trajectories(paths["teacher"], paths["student"]))
    curve = plots.curves(
        {"student": (paths["delta"], paths["error"])},
        xlabel="delta",
        ylabel="relative error",
        title="error along delta (Fig. 4)",
    )
    drawn["comparison.png"] = plots.png(figure, 130)
    drawn["error_along_delta.png"] = plots.png(curve)
    drawn["training.png"] = plots.png(
        plots.training(read_metrics(folder / "metrics.csv"), student.about.get("curves"))
    )
    return drawn


def one_per_class(labels: Tensor, classes: int) -> Tensor:
    """The first two samples of each class, class by class."""
    return torch.cat([(labels == k).nonzero()[:2, 0] for k in range(min(classes, 10))])


def caption_columns(labels: Tensor | None, names: Sequence[str]) -> list[str] | None:
    """What the class of each column is called, a part a line; None without classes.

    >>> caption_columns(torch.tensor([0, 1]), ["hat, glasses"])
    ['hat\\nglasses', 'class 1']
    """
    if labels is None:
        return None
    known = dict(enumerate(names))
    return [known.get(k, f"class {k}").replace(", ", "\n") for k in labels.tolist()]


def table(lines: list[Line]) -> list[str]:
    """The figures as Markdown."""
    recognised = any(line.accuracy is not None for line in lines)
    header = [
        "sampler",
        "guidance",
        "evaluations",
        "FID",
        "endpoint error",
        *["recognised"] * recognised,
        "ms / sample",
    ]
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for x in lines:
        accuracy = [f"{x.accuracy:.1%}"] * recognised if x.accuracy is not None else []
        rows.append(
            [
                x.name,
                f"{x.guidance:g}",
                str(x.evaluations),
                f"{x.fid:.4g}",
                f"{x.endpoint:.3f}",
                *accuracy,
                f"{x.milliseconds:.3f}",
            ]
        )
    return [f"| {' | '.join(row)} |" for row in rows]


def text(
    folder: Path,
    lines: list[Line],
    shown: list[str],
    reference: str,
    floor: float | None,
    count: int,
) -> str:
    """report.md."""
    student = next(x for x in lines if x.name.startswith("student"))
    many, two = (
        next(x for x in lines if x.name == f"teacher, {k} steps" and x.guidance == student.guidance)
        for k in (64, 2)
    )
    return (
        templates(__package__)
        .get_template("report.md")
        .render(
            run=folder,
            student=student,
            steps=student.name.removeprefix("student, "),
            many=many,
            two=two,
            count=count,
            reference=reference,
            floor=floor,
            table=table(lines),
            has_paths=PATHS in shown,
        )
    )
