"""What the measurement of a claim came to: every figure, and whether what was claimed holds."""

from collections.abc import Mapping
from itertools import product
from math import hypot, isnan
from typing import Any, NamedTuple

from freeflow_lightning.evaluation.claims import FIGURES, Arm, Check, Claim, Size
from freeflow_lightning.evaluation.methods import Figures, Method, Spread

HOLDS, HOLDS_ONCE, WITHIN, FAILS, NOT_RUN = (
    "holds",
    "holds for one seed",
    "holds within the spread of the seeds",
    "does not hold",
    "not measured at this budget",
)


class ClaimFinding(NamedTuple):
    """What a check came to: its words, the verdict, the figures compared."""

    say: str
    verdict: str
    less: Spread | None = None
    than: Spread | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        less, than = (None if side is None else side._asdict() for side in (self.less, self.than))
        return {"say": self.say, "verdict": self.verdict, "less": less, "than": than}


class ClaimResult(NamedTuple):
    """A claim with what was measured.

    Args:
        claim: the claim.
        size: what was spent.
        methods: the runs of each arm, by its label.
        teacher: the teacher's own figures along the axis of the reading.
        about: how it was made, as JSON.
    """

    claim: Claim
    size: Size
    methods: Mapping[str, Method]
    teacher: Figures
    about: Mapping[str, Any]

    @property
    def arms(self) -> list[Arm]:
        """Those that were run."""
        return [arm for arm in self.claim.arms(self.size) if arm.label in self.methods]

    def at(self, place: str, figure: str) -> Spread | None:
        """Return a figure at a place of the checks; None where it was not measured."""
        place, _, other = place.partition(" over ")
        if other:
            return divide(self.at(place, figure), self.at(other, figure))
        label, _, x = place.partition(" at ")
        method = self.methods.get(label)
        if method is None or not method.finished:
            return None
        if self.claim.over_training:
            point = max(1, round(float(x or 1) * method.shared_points))
            return method.at(point - 1, 1, figure)
        return method.final(float(x or 1), figure)

    def findings(self) -> list[ClaimFinding]:
        """Return what each check came to."""
        return [self._finding(check) for check in self.claim.checks]

    def _finding(self, check: Check) -> ClaimFinding:
        found = []
        for less, than in product(check.less, check.than):
            a, b = self.at(less, check.figure), self.at(than, check.figure)
            if a is not None and b is not None:
                found.append(ClaimFinding(check.say, compare_spreads(a, b), a, b))
        if not found:
            return ClaimFinding(check.say, NOT_RUN)
        order = (FAILS, WITHIN, HOLDS_ONCE, HOLDS)
        return min(found, key=lambda finding: order.index(finding.verdict))

    def as_json(self) -> dict[str, Any]:
        """Plain values: the words of the claim, every final figure, the findings, every run."""
        claim = self.claim
        return {
            "claim": {k: getattr(claim, k) for k in ("name", "title", "source", "statement")},
            "note": claim.note,
            "size": self.size._asdict(),
            "findings": [finding.as_json() for finding in self.findings()],
            "arms": {label: self._arm(label) for label in self.methods},
            "teacher": {str(x): dict(row) for x, row in self.teacher.items()},
            "about": dict(self.about),
        }

    def _arm(self, label: str) -> dict[str, Any]:
        method = self.methods[label]
        final = {}
        for x in method.steps:
            spreads = {name: method.final(x, name) for name in FIGURES}
            final[str(x)] = {k: v._asdict() for k, v in spreads.items() if v is not None}
        runs = [
            {"seed": run.seed, "failure": run.failure, "points": [p.as_json() for p in run.points]}
            for run in method.runs
        ]
        return {"paper": self.claim.paper.get(label), "final": final, "runs": runs}


def divide(a: Spread | None, b: Spread | None) -> Spread | None:
    """Return the ratio of two independent means, to first order; None where one is not known.

    >>> divide(Spread(6.0, 0.3), Spread(2.0, 0.0))
    Spread(mean=3.0, deviation=0.15)
    """
    if a is None or b is None:
        return None
    ratio = a.mean / b.mean
    return Spread(ratio, hypot(a.deviation, ratio * b.deviation) / abs(b.mean))


def compare_spreads(less: Spread, than: Spread) -> str:
    """Return whether one mean is below another, and by more than the seeds spread.

    >>> nan = float("nan")
    >>> compare_spreads(Spread(1.0, 0.1), Spread(2.0, 0.1)), compare_spreads(Spread(1.9, 0.5), Spread(2.0, 0.5))
    ('holds', 'holds within the spread of the seeds')
    >>> compare_spreads(Spread(1.0, nan), Spread(2.0, nan)), compare_spreads(Spread(3.0, 0.1), Spread(2.0, 0.1))
    ('holds for one seed', 'does not hold')
    """
    gap, noise = than.mean - less.mean, hypot(less.deviation, than.deviation)
    if not gap > 0:
        return FAILS
    if isnan(noise):
        return HOLDS_ONCE
    return HOLDS if gap > noise else WITHIN
