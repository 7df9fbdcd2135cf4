"""What freeflow diagnose shows: findings in sentences, and sections with figures and tables."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from freeflow_lightning.commands.views.page import Finding, Section
from freeflow_lightning.evaluation.auxiliary_lag import AuxiliaryLag
from freeflow_lightning.evaluation.neighbours import Neighbours
from freeflow_lightning.evaluation.trajectory_errors import (
    TrajectoryErrors,
    count_equal_steps,
    recommend_steps,
)
from freeflow_lightning.evaluation.velocity_gaps import VelocityGaps
from freeflow_lightning.flow import EVALUATIONS
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.students.flow_map import FlowMap

COLUMNS = 12


STEEP = 4.0
"""Error at delta 1 over that at 0.5 from which on it is called steep; 2 is a straight line."""


def trajectory_findings(
    path: TrajectoryErrors,
    solvers: dict[str, dict[int, float]],
    by_class: dict[int, float],
    tolerance: float,
) -> list[Finding]:
    """Endpoint error, its growth, the solver, the worst class."""
    means = path.errors.mean(1)
    end, half = float(means[-1]), float(means[len(means) // 2 - 1])
    worth = count_equal_steps(solvers["euler"], end)
    steps = (
        f"better than {worth} Euler step{'s' * (worth > 1)} of the teacher"
        if worth
        else "worse than one Euler step"
    )
    found = [
        Finding(
            "good" if worth and worth >= 4 else "look",
            "endpoint",
            f"relative error {end:.3f} to the teacher: {steps}.",
        ),
        Finding(
            "look" if end > STEEP * half else "good",
            "growth",
            f"the error is {half:.3f} at delta 0.5 and {end:.3f} at delta 1"
            + (
                ": it accumulates; the correction objective (alpha) repairs that."
                if end > STEEP * half
                else "."
            ),
        ),
    ]
    known = {name: recommend_steps(errors, tolerance) for name, errors in solvers.items()}
    cost = {name: n * EVALUATIONS[name] for name, n in known.items() if n is not None}
    eight = solvers["heun"].get(8)
    text = f"no N up to {max(solvers['heun'])} tracks the teacher within {tolerance:.0%}"
    if cost:
        best = min(cost, key=lambda name: cost[name])
        text = f"{best} with N = {known[best]} tracks the teacher within {tolerance:.0%} at the fewest evaluations"
    limits = eight is not None and eight > end / 2
    if eight is not None:
        text += f"; the paper's Heun with N = 8 has {eight:.3f}" + (
            ", which limits this student: use a finer grid." if limits else ", no limit here."
        )
    found.append(Finding("look" if limits else "good", "solver", text))
    if by_class:
        worst, error = next(iter(by_class.items()))
        far = error > 1.5 * end
        found.append(
            Finding(
                "look" if far else "good",
                "classes",
                f"the worst class is {worst}, with error {error:.3f} (mean {end:.3f}).",
            )
        )
    return found


def sample_findings(pairs: Neighbours) -> list[Finding]:
    """Diversity and nearest neighbours."""
    ours, theirs = (
        float(distance.median()) for distance in (pairs.to_teacher[1], pairs.to_student[1])
    )
    low, high = pairs.diversity < 0.9, pairs.diversity > 1.1
    meaning = (
        ": modes are getting lost."
        if low
        else ": noise, or samples that the teacher would not draw."
        if high
        else "."
    )
    return [
        Finding(
            "look" if low or high else "good",
            "diversity",
            f"samples of one class are {pairs.diversity:.2f} times as far apart as the "
            f"teacher's{meaning}",
        ),
        Finding(
            "look" if theirs > 1.3 * ours else "good",
            "coverage",
            f"a student's sample is {ours:.3g} from the nearest of the teacher's (median), a "
            f"teacher's {theirs:.3g} from the nearest of the student's"
            + (": the student leaves parts out." if theirs > 1.3 * ours else "."),
        ),
    ]


def lag_findings(lag: AuxiliaryLag | None, steps: int) -> list[Finding]:
    """How far the auxiliary network is behind."""
    if lag is None:
        return [
            Finding(
                "plain",
                "auxiliary",
                "not measured: the checkpoint holds no auxiliary network, or --auxiliary_steps is "
                "0.",
            )
        ]
    behind = lag.gained > 0.05
    advice = (
        ": it lags behind the student; raise auxiliary_lr or lower student_lr."
        if behind
        else ": it keeps up."
    )
    return [
        Finding(
            "look" if behind else "good",
            "auxiliary",
            f"{steps} more steps with the student held still gain {lag.gained:.1%} of its "
            f"loss{advice}",
        )
    ]


def trajectory_section(path: TrajectoryErrors, solvers: dict[str, dict[int, float]]) -> Section:
    """Fig. 4, with the teacher's own coarse solutions as a scale."""
    levels = {
        f"teacher, {n} Euler step{'s' * (n > 1)}": solvers["euler"][n]
        for n in (1, 2, 4, 8)
        if n in solvers["euler"]
    }
    quantiles = torch.quantile(path.errors, torch.tensor([0.1, 0.9]), dim=1)
    lines: dict[str, tuple[Any, Any]] = {"mean": (path.delta, path.errors.mean(1))}
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
    """How well N steps track a fine solution."""
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


def cases_sections(
    student: FlowMap, path: TrajectoryErrors, labels: Tensor | None, by_class: dict[int, float]
) -> list[Section]:
    """Errors by class, and the samples with the largest errors, or the paths of points."""
    made = []
    errors = path.errors[-1]
    if by_class:
        shown = dict(list(by_class.items())[:40])
        figure = plots.bars(
            {str(c): e for c, e in shown.items()},
            ylabel="endpoint error",
            level=float(errors.mean()),
        )
        made.append(
            Section(
                "Classes, worst first",
                "Mean endpoint error by class; dashed: over all. At most 40 are shown.",
                [figure],
                [],
            )
        )
    worst = errors.argsort(descending=True)[:COLUMNS]
    typical = errors.argsort()[len(errors) // 2 :][:COLUMNS]
    figures = []
    for title, chosen in (("largest errors", worst), ("typical (median) errors", typical)):
        sides = {
            name: pictures(student.teacher, x[-1][chosen].to(student.device)).cpu()
            for name, x in (("teacher", path.teacher), ("student", path.student))
        }
        names = (
            f" of classes {', '.join(str(int(labels[i])) for i in chosen)}"
            if labels is not None
            else ""
        )
        figures.append(_side_by_side(sides, f"{title}{names}"))
    if path.teacher.shape[2:] == (2,):
        figures.append(plots.trajectories(path.teacher, path.student))
    text = (
        "The same noise through the teacher (64 Heun steps) and the student (one step): the "
        "samples with the largest relative error, and typical ones."
    )
    return [*made, Section("Worst cases", text, figures, [])]


def neighbour_sections(pairs: Neighbours) -> list[Section]:
    """Nearest pairs: of random samples, of what the student misses, of what it invents."""
    index, distance = pairs.to_teacher
    back, missed = pairs.to_student
    first, strange = (
        torch.arange(min(COLUMNS, len(index))),
        distance.argsort(descending=True)[:COLUMNS],
    )
    lost = missed.argsort(descending=True)[:COLUMNS]
    figures = [
        _side_by_side(
            {"student": pairs.student[first], "nearest teacher": pairs.teacher[index[first]]},
            "any samples of the student",
        ),
        _side_by_side(
            {"teacher": pairs.teacher[lost], "nearest student": pairs.student[back[lost]]},
            "furthest from the student: what it misses",
        ),
        _side_by_side(
            {"student": pairs.student[strange], "nearest teacher": pairs.teacher[index[strange]]},
            "furthest from the teacher: what it invents",
        ),
    ]
    text = (
        "Samples of different noise, and the nearest one on the other side in feature space. The "
        "second row of pairs shows modes that the student may have lost, the third samples that "
        "the teacher would not draw."
    )
    return [Section("Nearest neighbours", text, figures, [])]


def gap_section(name: str, gap: VelocityGaps) -> Section:
    """Velocity gaps by delta or r."""
    place, what = (
        ("delta", "v_G - u along the student's own path")
        if name == "prediction"
        else ("r", "G - u at the student's noised samples")
    )
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
    """The auxiliary network's loss by r."""
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


def _side_by_side(sides: dict[str, Tensor], title: str) -> Figure:
    """Rows of pictures, or points joined pair by pair."""
    drawn = next(iter(sides.values()))
    if drawn.ndim == 4:
        return plots.rows(sides, title)
    return plots.points({name: plots.plane(x) for name, x in sides.items()}, title)
