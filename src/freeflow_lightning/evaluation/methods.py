"""A comparison of methods: its runs, the rate that each method is given, mean and spread over
seeds.
"""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

FIGURES = {
    "fid": "FID to the teacher",
    "fid_to_statistics": "FID to the statistics",
    "endpoint_error": "endpoint error",
    "recall": "recall",
    "diversity": "diversity",
}
"""What a comparison shows, by its name among the scores."""

Figures = Mapping[float, Mapping[str, float]]
"""Value by figure, by steps per sample (or whatever else a student is measured along)."""


class Run(NamedTuple):
    """One training run of a method: which, and when it was measured.

    Args:
        method: name of its config.
        seed: of training.
        rate: multiple of the config's student_lr.
        points: measurements over the run, the last at its end.
        failure: why it ended before its budget was spent; empty if it did not.
    """

    method: str
    seed: int
    rate: float
    points: Sequence["Point"] = ()
    failure: str = ""

    @property
    def merit(self) -> float:
        """Mean of the final FIDs to the teacher over the steps that the method allows; infinite if
        the run failed.
        """
        if self.failure or not self.points:
            return math.inf
        mean = fmean(row["fid"] for row in self.points[-1].figures.values())
        return math.inf if math.isnan(mean) else mean


class Point(NamedTuple):
    """A measurement within a run: what was spent until then, and the figures."""

    steps: int
    evaluations: Mapping[str, float]
    seconds: float
    figures: Figures

    @property
    def total(self) -> float:
        """Forward passes of all networks."""
        return sum(self.evaluations.values())

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        figures = {str(steps): dict(row) for steps, row in self.figures.items()}
        return {**self._asdict(), "evaluations": dict(self.evaluations), "figures": figures}

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> "Point":
        """Return the point that `as_json` describes; null, which stands for no number, is NaN."""
        figures = {}
        for steps, row in content["figures"].items():
            figures[json.loads(steps)] = {
                name: math.nan if value is None else value for name, value in row.items()
            }
        return cls(**{**content, "figures": figures})


class Spread(NamedTuple):
    """Mean and standard deviation over seeds; the deviation of one seed is NaN."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """
        >>> Spread.of([1.0, 3.0])
        Spread(mean=2.0, deviation=1.4142135623730951)
        """
        return cls(fmean(values), stdev(values) if len(values) > 1 else math.nan)


class Method(NamedTuple):
    """A method of the comparison with its runs: of the rate that it was given, a seed each, and of
    the rates that were tried.
    """

    name: str
    runs: Sequence[Run]
    tried: Sequence[Run]

    @property
    def rate(self) -> float:
        """Multiple of the config's student_lr."""
        return self.runs[0].rate

    @property
    def finished(self) -> list[Run]:
        """The runs that spent their budget."""
        return [run for run in self.runs if not run.failure]

    @property
    def failures(self) -> list[str]:
        """Which seeds failed, and why."""
        return [f"seed {run.seed}: {run.failure}" for run in self.runs if run.failure]

    @property
    def steps(self) -> list[float]:
        """Steps per sample that it was measured at."""
        return sorted(self.finished[0].points[-1].figures) if self.finished else []

    @property
    def shared_points(self) -> int:
        """How many points all finished runs have."""
        return min((len(run.points) for run in self.finished), default=0)

    def final(self, steps: float, figure: str) -> Spread | None:
        """Return a figure at the end of training; None where it was not measured."""
        return self.at(-1, steps, figure)

    def at(self, place: int, steps: float, figure: str) -> Spread | None:
        """Return a figure at a point of training."""
        rows = [run.points[place].figures.get(steps, {}) for run in self.finished]
        values = [row[figure] for row in rows if figure in row]
        return Spread.of(values) if values else None

    def curve(self, steps: float, figure: str) -> list[tuple[float, Spread]]:
        """Return a figure over the mean forward passes spent, at every point that all runs have."""
        found = []
        for place in range(-self.shared_points, 0):
            spread = self.at(place, steps, figure)
            if spread is not None:
                found.append((fmean(run.points[place].total for run in self.finished), spread))
        return found


def pick_rate(tried: Sequence[Run]) -> float:
    """Return the rate whose run has the best merit; the lowest of equal ones, as where all have
    failed.
    """
    return min(tried, key=lambda run: (run.merit, run.rate)).rate


class MethodComparison(NamedTuple):
    """All methods, the teacher in as few evaluations, its own samples again (the floor), and how
    all this was made.
    """

    methods: Sequence[Method]
    teacher: Figures
    floor: Mapping[str, float]
    about: Mapping[str, Any]

    @property
    def figures(self) -> dict[str, str]:
        """The figures that were measured, with their titles."""
        return {name: title for name, title in FIGURES.items() if name in self.teacher[1]}

    def as_json(self) -> dict[str, Any]:
        """Plain values, every run with all its points among them."""
        return {
            "methods": [self._method_as_json(method) for method in self.methods],
            "teacher": {str(steps): dict(row) for steps, row in self.teacher.items()},
            "floor": dict(self.floor),
            "about": dict(self.about),
        }

    def _method_as_json(self, method: Method) -> dict[str, Any]:
        finals = {
            str(steps): {
                name: spread._asdict()
                for name in self.figures
                if (spread := method.final(steps, name)) is not None
            }
            for steps in method.steps
        }
        return {
            "name": method.name,
            "rate": method.rate,
            "rates tried": {f"{run.rate:g}": run.merit for run in method.tried},
            "final": finals,
            "runs": [_run_as_json(run) for run in method.runs],
        }


def _run_as_json(run: Run) -> dict[str, Any]:
    return run._asdict() | {"points": [point.as_json() for point in run.points]}
