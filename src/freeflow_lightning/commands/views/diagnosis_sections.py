"""The sections of a diagnosis: figures, tables, and how to read them."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from freeflow_lightning.commands.views.page import Section
from freeflow_lightning.evaluation.auxiliary_lag import AuxiliaryLag
from freeflow_lightning.evaluation.diagnosis import Diagnosis, DiagnosisSize
from freeflow_lightning.evaluation.neighbours import Neighbours
from freeflow_lightning.evaluation.trajectory_errors import TrajectoryErrors, recommend_steps
from freeflow_lightning.evaluation.velocity_gaps import VelocityGaps
from freeflow_lightning.flow import EVALUATIONS
from freeflow_lightning.metrics.class_names import class_names
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.sampling.picture_rows import caption_classes, picture_rows
from freeflow_lightning.students.flow_map import FlowMap

COLUMNS, CLASSES = 12, 40


def draw_sections(
    found: Diagnosis, student: FlowMap, size: DiagnosisSize, tolerance: float
) -> list[Section]:
    """Return all of the page below its findings."""
    sections = [solver_section(found.solvers, tolerance, found.path, size.fine_steps)]
    if student.pairs.leads_between:
        sections.insert(0, trajectory_section(found.path, found.solvers))
    if found.by_class:
        sections.append(class_section(found.by_class, float(found.path.errors[-1].mean())))
    sections.append(cases_section(student, found.path, found.labels))
    sections.append(neighbour_section(found.neighbours))
    sections += [gap_section(name, gap) for name, gap in found.gaps.items()]
    if found.lag is not None:
        sections.append(lag_section(found.lag, size.auxiliary_steps))
    return sections


def trajectory_section(path: TrajectoryErrors, solvers: dict[str, dict[int, float]]) -> Section:
    """Fig. 4, with the teacher's own coarse solutions as a scale."""
    levels = {
        f"teacher, {n} Euler step{'s' * (n > 1)}": solvers["euler"][n]
        for n in (1, 2, 4, 8)
        if n in solvers["euler"]
    }
    quantiles = torch.quantile(path.errors, torch.tensor([0.1, 0.9]), dim=1)
    lines: dict[str, tuple[Any, Any]] = {"student, mean": (path.delta, path.errors.mean(1))}
    lines |= {"best 10 %": (path.delta, quantiles[0]), "worst 10 %": (path.delta, quantiles[1])}
    figure = plots.curves(lines, xlabel="delta", ylabel="|f - x| / |x|", levels=levels)
    text = (
        "Relative distance between the student's f(z, delta) and the teacher's fine solution at "
        "the same time, for the same noise (Fig. 4 of the paper). Dashed: how far the teacher's "
        "own coarse solutions end from its fine one. A curve that bends upwards is error that "
        "accumulates."
    )
    return Section("Error along the trajectory", text, [figure], [])


def solver_section(
    solvers: dict[str, dict[int, float]], tolerance: float, path: TrajectoryErrors, fine: int
) -> Section:
    """Return how well N steps track a fine solution."""
    lines = {name: (list(errors), list(errors.values())) for name, errors in solvers.items()}
    levels = {"tolerance": tolerance, "this student": float(path.errors[-1].mean())}
    figure = plots.curves(
        lines, xlabel="steps N", ylabel="relative error", log=True, log_x=True, levels=levels
    )
    table = [["solver", *(f"N = {n}" for n in solvers["heun"]), "recommended N", "evaluations"]]
    for name, errors in solvers.items():
        n = recommend_steps(errors, tolerance)
        known = [str(n), str(n * EVALUATIONS[name])] if n else [f"more than {max(errors)}", ""]
        table.append([name, *(f"{error:.4f}" for error in errors.values()), *known])
    text = (
        f"Relative distance of N steps to {fine} Heun steps of this teacher at this guidance. The "
        "discrete objective learns the solution of its own grid (prediction.steps, "
        "prediction.method): no student of it gets below that point of the curve. Recommended: "
        f"the smallest N within {tolerance:.0%}."
    )
    return Section("Which solver, how many steps", text, [figure], table)


def class_section(by_class: dict[int, float], mean: float) -> Section:
    """Errors by class, worst first."""
    shown = {str(c): error for c, error in list(by_class.items())[:CLASSES]}
    figure = plots.bars(shown, ylabel="endpoint error", level=mean)
    text = f"Mean endpoint error by class; dashed: over all. At most {CLASSES} are shown."
    return Section("Classes, worst first", text, [figure], [])


def cases_section(student: FlowMap, path: TrajectoryErrors, labels: Tensor | None) -> Section:
    """Return the samples with the largest errors and typical ones; the paths of points."""
    order = path.errors[-1].argsort()
    cases = {
        "largest errors": order.flip(0)[:COLUMNS],
        "typical (median) errors": order[len(order) // 2 :][:COLUMNS],
    }
    figures = []
    for title, chosen in cases.items():
        sides = {
            name: pictures(student.teacher, x[-1][chosen].to(student.device)).cpu()
            for name, x in (("teacher", path.teacher), ("student", path.student))
        }
        classes = None if labels is None else labels[chosen].tolist()
        figures.append(_side_by_side(sides, title, classes, student.teacher.num_classes))
    if path.teacher.shape[2:] == (2,) and student.pairs.leads_between:
        figures.append(plots.trajectories(path.teacher, path.student))
    text = (
        "The same noise through the teacher (64 Heun steps) and the student (one step): the "
        "samples with the largest relative error, and typical ones."
    )
    return Section("Worst cases", text, figures, [])


def neighbour_section(pairs: Neighbours) -> Section:
    """Nearest pairs: of random samples, of what the student misses, of what it invents."""
    to_teacher, invented = pairs.to_teacher
    to_student, missed = pairs.to_student
    near_student = {"student": pairs.student, "nearest teacher": pairs.teacher[to_teacher]}
    near_teacher = {"teacher": pairs.teacher, "nearest student": pairs.student[to_student]}
    rows = (
        ("any samples of the student", near_student, torch.arange(len(invented))),
        ("furthest from the student: what it misses", near_teacher, missed.argsort().flip(0)),
        ("furthest from the teacher: what it invents", near_student, invented.argsort().flip(0)),
    )
    figures = []
    for title, sides, order in rows:
        shown = {name: drawn[order[:COLUMNS]] for name, drawn in sides.items()}
        figures.append(_side_by_side(shown, title))
    text = (
        "Samples of different noise, and the nearest one on the other side in feature space. The "
        "second row of pairs shows modes that the student may have lost, the third samples that "
        "the teacher would not draw."
    )
    return Section("Nearest neighbours", text, figures, [])


def gap_section(name: str, gap: VelocityGaps) -> Section:
    """Velocity gaps by delta or r."""
    place, what = "r", "G - u at the student's noised samples"
    if name == "prediction":
        place, what = "delta", "v_G - u along the student's own path"
    lines = {"gap": (gap.place, gap.gap), "teacher's velocity u": (gap.place, gap.size)}
    text = (
        f"Root mean square per element of {what} (the {name} objective's residual), beside that "
        "of u itself. Where the gap is a large part of u, the student is wrong; it is 0 at the "
        "optimum."
    )
    return Section(
        f"Velocity gap of the {name} objective",
        text,
        [plots.curves(lines, xlabel=place, ylabel="RMS", log=True)],
        [],
    )


def lag_section(lag: AuxiliaryLag, steps: int) -> Section:
    """Return the auxiliary network's loss by r."""
    lines = {
        "as it is": (lag.r, lag.now),
        f"after {steps} more steps": (lag.r, lag.later),
        "teacher's u in its place": (lag.r, lag.teacher),
    }
    text = (
        "Loss of Eq. 12 on held-out noise. A gap between the first two curves is lag: the "
        "correction then follows an outdated picture of the student's samples. The teacher's "
        "(unguided) velocity is the optimum for a student whose samples are the teacher's: an "
        "auxiliary network below it has learned what is different about the student's."
    )
    return Section(
        "The auxiliary network's lag",
        text,
        [plots.curves(lines, xlabel="r", ylabel="loss", log=True)],
        [],
    )


def _side_by_side(
    sides: dict[str, Tensor],
    title: str,
    classes: Sequence[int] | None = None,
    num_classes: int = 0,
) -> Figure:
    """Rows of pictures with their classes above, or points joined pair by pair."""
    drawn = next(iter(sides.values()))
    if drawn.ndim == 4:
        names = class_names(drawn.shape[1:], num_classes)
        return picture_rows(sides, title, caption_classes(classes, names))
    return plots.points({name: plots.plane(x) for name, x in sides.items()}, title)
