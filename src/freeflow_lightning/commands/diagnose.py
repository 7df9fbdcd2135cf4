"""freeflow diagnose: where a student goes wrong and what its teacher allows, in one HTML page with pictures."""

import sys
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import torch
from jsonargparse import auto_cli
from matplotlib.figure import Figure
from torch import Tensor, nn

from freeflow_lightning.commands.parser import BriefErrors, about
from freeflow_lightning.commands.views.page import Finding, Section, page
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.evaluation.diagnosis import (
    Gaps,
    Lag,
    Path,
    along_delta,
    auxiliary_lag,
    correction_gap,
    equal_steps,
    prediction_gap,
    recommended_steps,
    solver_errors,
)
from freeflow_lightning.evaluation.pick_features import Name, pick_features
from freeflow_lightning.flow import EVALUATIONS, take
from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.metrics.scores import spread
from freeflow_lightning.metrics.support import nearest
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.draw import Draw, evaluate_rows, labels_of, pictures
from freeflow_lightning.sampling.teacher_sampler import Sampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import Overrides, open_auxiliary, open_student, pick_device
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.output_folder import claim_names, publish

NOTE, PAGE = "diagnosis.json", "diagnosis.html"
COLUMNS = 12
SOLVER_SAMPLES = 128
STEEP = 4.0
"""Error at delta 1 over that at 0.5 from which on it is called steep; 2 is a straight line."""


class Pairs(NamedTuple):
    """Student's and teacher's samples of other noise: pictures, features, and each one's nearest on the other side."""

    student: Tensor
    teacher: Tensor
    to_teacher: tuple[Tensor, Tensor]
    to_student: tuple[Tensor, Tensor]
    diversity: float


def diagnose(
    checkpoint: str,
    guidance: float = 1.5,
    num_samples: int = 512,
    output: str = "diagnosis",
    features: Name | FeatureNetwork = "auto",
    weights: str | None = None,
    fine_steps: int = 256,
    tolerance: float = 0.02,
    auxiliary_steps: int = 100,
    seed: int = 0,
    batch_size: int = 256,
    average: str | None = None,
    device: str = "auto",
    teacher: Teacher | None = None,
    network: nn.Module | None = None,
    trust: list[str] | None = None,
) -> None:
    """See where a student goes wrong: one page, diagnosis.html, to read at a glance; the numbers in diagnosis.json.

    Args:
        checkpoint: a .ckpt file that `freeflow fit` wrote.
        guidance: guidance scale of student and teacher.
        num_samples: samples that are compared with the teacher's.
        output: folder to write to; made if it does not exist.
        features: network that says which samples are alike: auto, inception, dinov2, digits, flat (the plain numbers), or a
            class_path.
        weights: the file of Inception's or DINOv2's weights.
        fine_steps: Heun steps of the solution that coarser ones are measured against.
        tolerance: relative error at which a solver counts as good enough.
        auxiliary_steps: further steps that a copy of the auxiliary network trains, to see how far behind it is; 0 for none.
        seed: seed of the noise.
        batch_size: samples per network evaluation.
        average: which moving average, for example ema_0_9999, or raw; the first one if not given.
        device: cpu, cuda, cuda:1, mps; auto takes an accelerator if there is one.
        teacher: takes the place of the checkpoint's teacher: its class, then its arguments as --teacher.NAME.
        network: takes the place of the network that the checkpoint's student started from, or says it where the checkpoint
            cannot: its class, then its arguments as --network.NAME.
        trust: class paths outside this package that the checkpoint may import.
    """
    if num_samples < 16 or batch_size < 1 or fine_steps < 2 or auxiliary_steps < 0:
        raise ValueError(
            f"expected at least 16 samples, batches of 1 and 2 fine steps, got {num_samples}, {batch_size} and {fine_steps} "
            f"(auxiliary steps {auxiliary_steps})"
        )
    claim_names(FilePath(output), NOTE, "diagnose", [PAGE])
    overrides = Overrides(teacher, network, trust)
    student = open_student(checkpoint, average, overrides=overrides).to(pick_device(device))
    student.check_guidance(guidance)
    judge = pick_features(features, weights, student.teacher, student.device)
    auxiliary = open_auxiliary(checkpoint, student, overrides)
    which = Draw(seed, stream="diagnosis")
    z, condition = which.noise(student.teacher, torch.arange(num_samples), student.device)
    few, some = slice(SOLVER_SAMPLES), slice(256)
    c_few, c_some = take(condition, few), take(condition, some)
    with progress_bar(True) as bar:
        task = bar.add_task("error along the trajectory", total=4 + auxiliary_steps)
        path = along_delta(student, z, condition, guidance, batch_size=batch_size)
        bar.update(task, advance=1, description="solvers")
        solvers = solver_errors(student.teacher, z[few], c_few, guidance, fine=fine_steps)
        bar.update(task, advance=1, description="velocity gaps")
        gaps = {"prediction": prediction_gap(student, z[some], c_some, guidance)}
        if auxiliary is not None:
            gaps["correction"] = correction_gap(student, auxiliary, z[some], c_some, guidance, seed)
        bar.update(task, advance=1, description="neighbours")
        pairs = neighbours(student, judge, guidance, num_samples, seed, batch_size)
        bar.update(task, advance=1, description="auxiliary network")
        lag = None
        if auxiliary is not None and auxiliary_steps:
            lag = auxiliary_lag(
                student,
                auxiliary,
                which,
                guidance,
                steps=auxiliary_steps,
                batch_size=batch_size,
                samples=num_samples,
                advance=lambda n: bar.advance(task, n),
            )
    labels = labels_of(student.teacher, condition)
    by_class = class_errors(path.errors[-1], labels)
    findings = [
        *trajectory_findings(path, solvers, by_class, tolerance),
        *sample_findings(pairs),
        *lag_findings(lag, auxiliary_steps),
    ]
    sections = [
        trajectory_section(path, solvers),
        solver_section(solvers, tolerance, path, fine_steps),
        *cases_sections(student, path, labels, by_class),
        *neighbour_sections(pairs),
        *(gap_section(name, gap) for name, gap in gaps.items()),
        *([lag_section(lag, auxiliary_steps)] if lag is not None else []),
    ]
    folder = FilePath(output)
    made_of = f"{checkpoint}, guidance {guidance:g}, {num_samples} samples, seed {seed}, features {type(network).__name__}"
    html = page("Diagnosis of a one-step student", made_of, findings, sections)
    numbers = {
        "about": made_of,
        "error_along_delta": dict(zip(path.delta.tolist(), path.errors.mean(1).tolist(), strict=True)),
        "solver_errors": solvers,
        "error_by_class": by_class,
        "gaps": {name: {field: values.tolist() for field, values in gap._asdict().items()} for name, gap in gaps.items()},
        "auxiliary": {name: values.tolist() for name, values in lag._asdict().items()} if lag is not None else None,
        "diversity": pairs.diversity,
        "findings": [found._asdict() for found in findings],
    }
    publish(folder, NOTE, "diagnose", numbers, {PAGE: html.encode()})
    for found in findings:
        print(f"{found.mark:>6}  {found.title}: {found.text}")
    print(f"written: {folder / 'diagnosis.html'}")


# What is computed here


def neighbours(student: FlowMap, network: FeatureNetwork, guidance: float, n: int, seed: int, batch_size: int) -> Pairs:
    """n samples of either side, of different noise, and each one's nearest on the other side in feature space."""
    teacher, drawn, seen, kinds = student.teacher, [], [], []
    sampler = Sampler("heun", 64, guidance)
    draws = {
        "diagnosis/student": lambda z, c: student(z, c, guidance),
        "diagnosis/teacher": lambda z, c: sampler(teacher, z, c),
    }
    for stream, draw in draws.items():
        parts, looks, labels = [], [], []
        for index in torch.arange(n).split(batch_size):
            z, condition = Draw(seed, stream=stream).noise(teacher, index, student.device)
            parts.append(pictures(teacher, evaluate_rows(draw, z, condition)))
            with torch.no_grad():
                looks.append(network(parts[-1]).float().cpu())
            labels.append(labels_of(teacher, condition))
        drawn.append(torch.cat(parts).cpu())
        seen.append(torch.cat(looks))
        kinds.append(torch.cat([part for part in labels if part is not None]) if labels[0] is not None else torch.zeros(n))
    (a, b), (la, lb) = seen, kinds
    classes = [c for c in la.unique() if int((la == c).sum()) > 1 and int((lb == c).sum()) > 1]
    ratios = [spread(a[la == c]) / spread(b[lb == c]) for c in classes]
    diversity = sum(ratios) / len(ratios) if ratios else spread(a) / spread(b)
    return Pairs(drawn[0], drawn[1], nearest(a, b), nearest(b, a), diversity)


def class_errors(errors: Tensor, labels: Tensor | None) -> dict[int, float]:
    """Mean endpoint error of each class, worst first; empty without classes."""
    if labels is None:
        return {}
    means = {int(c): float(errors[labels == c].mean()) for c in labels.unique()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


# What is said


def trajectory_findings(
    path: Path, solvers: dict[str, dict[int, float]], by_class: dict[int, float], tolerance: float
) -> list[Finding]:
    """Endpoint error, its growth, the solver, the worst class."""
    means = path.errors.mean(1)
    end, half = float(means[-1]), float(means[len(means) // 2 - 1])
    worth = equal_steps(solvers["euler"], end)
    steps = f"better than {worth} Euler step{'s' * (worth > 1)} of the teacher" if worth else "worse than one Euler step"
    found = [
        Finding("good" if worth and worth >= 4 else "look", "endpoint", f"relative error {end:.3f} to the teacher: {steps}."),
        Finding(
            "look" if end > STEEP * half else "good",
            "growth",
            f"the error is {half:.3f} at delta 0.5 and {end:.3f} at delta 1"
            + (": it accumulates; the correction objective (alpha) repairs that." if end > STEEP * half else "."),
        ),
    ]
    known = {name: recommended_steps(errors, tolerance) for name, errors in solvers.items()}
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
                "look" if far else "good", "classes", f"the worst class is {worst}, with error {error:.3f} (mean {end:.3f})."
            )
        )
    return found


def sample_findings(pairs: Pairs) -> list[Finding]:
    """Diversity and nearest neighbours."""
    ours, theirs = (float(distance.median()) for distance in (pairs.to_teacher[1], pairs.to_student[1]))
    low, high = pairs.diversity < 0.9, pairs.diversity > 1.1
    meaning = ": modes are getting lost." if low else ": noise, or samples that the teacher would not draw." if high else "."
    return [
        Finding(
            "look" if low or high else "good",
            "diversity",
            f"samples of one class are {pairs.diversity:.2f} times as far apart as the teacher's{meaning}",
        ),
        Finding(
            "look" if theirs > 1.3 * ours else "good",
            "coverage",
            f"a student's sample is {ours:.3g} from the nearest of the teacher's (median), a teacher's {theirs:.3g} from the "
            "nearest of the student's" + (": the student leaves parts out." if theirs > 1.3 * ours else "."),
        ),
    ]


def lag_findings(lag: Lag | None, steps: int) -> list[Finding]:
    """How far the auxiliary network is behind."""
    if lag is None:
        return [
            Finding("plain", "auxiliary", "not measured: the checkpoint holds no auxiliary network, or --auxiliary_steps is 0.")
        ]
    behind = lag.gained > 0.05
    advice = ": it lags behind the student; raise auxiliary_lr or lower student_lr." if behind else ": it keeps up."
    return [
        Finding(
            "look" if behind else "good",
            "auxiliary",
            f"{steps} more steps with the student held still gain {lag.gained:.1%} of its loss{advice}",
        )
    ]


# What is shown


def trajectory_section(path: Path, solvers: dict[str, dict[int, float]]) -> Section:
    """Fig. 4, with the teacher's own coarse solutions as a scale."""
    levels = {f"teacher, {n} Euler step{'s' * (n > 1)}": solvers["euler"][n] for n in (1, 2, 4, 8) if n in solvers["euler"]}
    quantiles = torch.quantile(path.errors, torch.tensor([0.1, 0.9]), dim=1)
    lines: dict[str, tuple[Any, Any]] = {"mean": (path.delta, path.errors.mean(1))}
    lines |= {"best 10 %": (path.delta, quantiles[0]), "worst 10 %": (path.delta, quantiles[1])}
    figure = plots.curves(lines, xlabel="delta", ylabel="|f - x| / |x|", levels=levels)
    text = (
        "Relative distance between the student's f(z, delta) and the teacher's fine solution at the same time, for "
        "the same noise (Fig. 4 of the paper). Dashed: how far the teacher's own coarse solutions end from its fine "
        "one. A curve that bends upwards is error that accumulates."
    )
    return Section("Error along the trajectory", text, [figure], [])


def solver_section(solvers: dict[str, dict[int, float]], tolerance: float, path: Path, fine: int) -> Section:
    """How well N steps track a fine solution."""
    lines = {name: (list(errors), list(errors.values())) for name, errors in solvers.items()}
    levels = {"tolerance": tolerance, "this student": float(path.errors[-1].mean())}
    figure = plots.curves(lines, xlabel="steps N", ylabel="relative error", log=True, log_x=True, levels=levels)
    table = [["solver", *(f"N = {n}" for n in solvers["heun"]), "recommended N", "evaluations"]]
    for name, errors in solvers.items():
        n = recommended_steps(errors, tolerance)
        known = [str(n), str(n * EVALUATIONS[name])] if n else [f"more than {max(errors)}", ""]
        table.append([name, *(f"{error:.4f}" for error in errors.values()), *known])
    text = (
        f"Relative distance of N steps to {fine} Heun steps of this teacher at this guidance. The discrete objective "
        f"learns the solution of its own grid (prediction.steps, prediction.method): no student of it gets below that "
        f"point of the curve. Recommended: the smallest N within {tolerance:.0%}."
    )
    return Section("Which solver, how many steps", text, [figure], table)


def cases_sections(student: FlowMap, path: Path, labels: Tensor | None, by_class: dict[int, float]) -> list[Section]:
    """Errors by class, and the samples with the largest errors, or the paths of points."""
    made = []
    errors = path.errors[-1]
    if by_class:
        shown = dict(list(by_class.items())[:40])
        figure = plots.bars({str(c): e for c, e in shown.items()}, ylabel="endpoint error", level=float(errors.mean()))
        made.append(
            Section(
                "Classes, worst first", "Mean endpoint error by class; dashed: over all. At most 40 are shown.", [figure], []
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
        names = f" of classes {', '.join(str(int(labels[i])) for i in chosen)}" if labels is not None else ""
        figures.append(_side_by_side(sides, f"{title}{names}"))
    if path.teacher.shape[2:] == (2,):
        figures.append(plots.trajectories(path.teacher, path.student))
    text = (
        "The same noise through the teacher (64 Heun steps) and the student (one step): the samples with the largest "
        "relative error, and typical ones."
    )
    return [*made, Section("Worst cases", text, figures, [])]


def neighbour_sections(pairs: Pairs) -> list[Section]:
    """Nearest pairs: of random samples, of what the student misses, of what it invents."""
    index, distance = pairs.to_teacher
    back, missed = pairs.to_student
    first, strange = torch.arange(min(COLUMNS, len(index))), distance.argsort(descending=True)[:COLUMNS]
    lost = missed.argsort(descending=True)[:COLUMNS]
    figures = [
        _side_by_side(
            {"student": pairs.student[first], "nearest teacher": pairs.teacher[index[first]]}, "any samples of the student"
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
        "Samples of different noise, and the nearest one on the other side in feature space. The second row of pairs "
        "shows modes that the student may have lost, the third samples that the teacher would not draw."
    )
    return [Section("Nearest neighbours", text, figures, [])]


def gap_section(name: str, gap: Gaps) -> Section:
    """Velocity gaps by delta or r."""
    place, what = (
        ("delta", "v_G - u along the student's own path")
        if name == "prediction"
        else ("r", "G - u at the student's noised samples")
    )
    lines = {"gap": (gap.place, gap.gap), "teacher's velocity u": (gap.place, gap.size)}
    text = (
        f"Root mean square per element of {what} (the {name} objective's residual), beside that of u itself. Where the"
        f" gap is a large part of u, the student is wrong; it is 0 at the optimum."
    )
    return Section(
        f"Velocity gap of the {name} objective", text, [plots.curves(lines, xlabel=place, ylabel="RMS", log=True)], []
    )


def lag_section(lag: Lag, steps: int) -> Section:
    """The auxiliary network's loss by r."""
    lines = {
        "as it is": (lag.r, lag.now),
        f"after {steps} more steps": (lag.r, lag.later),
        "teacher's u in its place": (lag.r, lag.teacher),
    }
    text = (
        "Loss of Eq. 12 on held-out noise. A gap between the first two curves is lag: the correction then follows an "
        "outdated picture of the student's samples. The teacher's (unguided) velocity is the optimum for a student "
        "whose samples are the teacher's: an auxiliary network below it has learned what is different about the "
        "student's."
    )
    return Section("The auxiliary network's lag", text, [plots.curves(lines, xlabel="r", ylabel="loss", log=True)], [])


def _side_by_side(sides: dict[str, Tensor], title: str) -> Figure:
    """Rows of pictures, or points joined pair by pair."""
    drawn = next(iter(sides.values()))
    if drawn.ndim == 4:
        return plots.rows(sides, title)
    return plots.points({name: plots.plane(x) for name, x in sides.items()}, title)


def main() -> None:
    """Parse the command line of `freeflow diagnose`."""
    auto_cli(
        diagnose,
        args=sys.argv[2:],
        prog="freeflow diagnose",
        description=about(diagnose),
        as_positional=False,
        parser_class=BriefErrors,
    )
