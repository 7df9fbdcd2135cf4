"""What a diagnosis finds, in sentences."""

from math import isnan

from freeflow_lightning.commands.views.page import Finding
from freeflow_lightning.evaluation.auxiliary_lag import AuxiliaryLag
from freeflow_lightning.evaluation.diagnosis import Diagnosis, DiagnosisSize
from freeflow_lightning.evaluation.neighbours import Neighbours
from freeflow_lightning.evaluation.trajectory_errors import count_equal_steps, recommend_steps
from freeflow_lightning.flow import EVALUATIONS

STEEP = 4.0
"""Error at delta 1 over that at 0.5 from which on it is called steep; 2 is a straight line."""


def find_findings(found: Diagnosis, size: DiagnosisSize, tolerance: float) -> list[Finding]:
    """Return the lines at the top of the page; `tolerance` is the error at which a solver is good
    enough.
    """
    means = found.path.errors.mean(1)
    end = float(means[-1])
    return [
        _endpoint(end, found.solvers["euler"]),
        *([_growth(float(means[len(means) // 2 - 1]), end)] if len(means) > 1 else []),
        _solver(found.solvers, end, tolerance),
        *([_worst_class(found.by_class, end)] if found.by_class else []),
        _diversity(found.neighbours.diversity),
        _coverage(found.neighbours),
        _auxiliary(found.lag, size.auxiliary_steps),
    ]


def _finding(is_good: bool, title: str, text: str) -> Finding:
    return Finding("good" if is_good else "look", title, text)


def _endpoint(end: float, euler: dict[int, float]) -> Finding:
    worth = count_equal_steps(euler, end)
    steps = "worse than one Euler step"
    if worth:
        steps = f"better than {worth} Euler step{'s' if worth > 1 else ''} of the teacher"
    text = f"relative error {end:.3f} to the teacher: {steps}."
    return _finding(worth is not None and worth >= 4, "endpoint", text)


def _growth(half: float, end: float) -> Finding:
    is_steep = end > STEEP * half
    text = f"the error is {half:.3f} at delta 0.5 and {end:.3f} at delta 1"
    advice = ": it accumulates; the correction objective (alpha) repairs that."
    return _finding(not is_steep, "growth", text + (advice if is_steep else "."))


def _solver(solvers: dict[str, dict[int, float]], end: float, tolerance: float) -> Finding:
    known = {name: recommend_steps(errors, tolerance) for name, errors in solvers.items()}
    cost = {name: n * EVALUATIONS[name] for name, n in known.items() if n is not None}
    text = f"no N up to {max(solvers['heun'])} tracks the teacher within {tolerance:.0%}"
    if cost:
        best = min(cost, key=lambda name: cost[name])
        text = (
            f"{best} with N = {known[best]} tracks the teacher within {tolerance:.0%} at the "
            "fewest evaluations"
        )
    eight = solvers["heun"].get(8)
    if eight is None:
        return _finding(True, "solver", text)
    limits = eight > end / 2
    verdict = "which limits this student: use a finer grid" if limits else "no limit here"
    text += f"; the paper's Heun with N = 8 has {eight:.3f}, {verdict}."
    return _finding(not limits, "solver", text)


def _worst_class(by_class: dict[int, float], mean: float) -> Finding:
    worst, error = next(iter(by_class.items()))
    text = f"the worst class is {worst}, with error {error:.3f} (mean {mean:.3f})."
    return _finding(error <= 1.5 * mean, "classes", text)


def _diversity(diversity: float) -> Finding:
    if isnan(diversity):
        text = "not measured: no class has two samples on either side; raise --num_samples."
        return Finding("plain", "diversity", text)
    meaning = "."
    if diversity < 0.9:
        meaning = ": modes are getting lost."
    elif diversity > 1.1:
        meaning = ": noise, or samples that the teacher would not draw."
    text = f"samples of one class are {diversity:.2f} times as far apart as the teacher's{meaning}"
    return _finding(0.9 <= diversity <= 1.1, "diversity", text)


def _coverage(pairs: Neighbours) -> Finding:
    ours, theirs = (float(near[1].median()) for near in (pairs.to_teacher, pairs.to_student))
    leaves_out = theirs > 1.3 * ours
    text = (
        f"a student's sample is {ours:.3g} from the nearest of the teacher's (median), a "
        f"teacher's {theirs:.3g} from the nearest of the student's"
        f"{': the student leaves parts out.' if leaves_out else '.'}"
    )
    return _finding(not leaves_out, "coverage", text)


def _auxiliary(lag: AuxiliaryLag | None, steps: int) -> Finding:
    if lag is None:
        text = (
            "--auxiliary_steps is 0, or the checkpoint holds no auxiliary network that learns the "
            "samples of one step from the prior alone"
        )
        return Finding("plain", "auxiliary", f"not measured: {text}.")
    is_behind = lag.gained > 0.05
    advice = "it keeps up."
    if is_behind:
        advice = "it lags behind the student; raise auxiliary_lr or lower student_lr."
    text = (
        f"{steps} more steps with the student held still gain {lag.gained:.1%} of its loss: "
        f"{advice}"
    )
    return _finding(not is_behind, "auxiliary", text)
