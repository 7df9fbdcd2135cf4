"""A claim of a paper as data: what is trained, along which axes, what is read, what should hold."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

from freeflow_lightning.evaluation.readings import READINGS, Reading

Settings = Mapping[str, Any]
"""What an arm changes in the base config: model, data, callbacks, or the base itself (config)."""

FIGURES = {
    "fid": "FID",
    "modes": "modes found",
    "recognised": "recognised",
    "recall": "recall",
    "diversity": "diversity",
    "endpoint_error": "endpoint error",
    "error": "relative error",
}
"""What a claim may show, with its title."""


class Size(NamedTuple):
    """How much a budget spends on a claim.

    Args:
        unit: of `amount`: "steps" or "evaluations".
        amount: of each run.
        points: measurements over each run.
        seeds: of training, from 0 on.
        samples: that a student is measured with.
        paired_samples: whose endpoints are compared with the teacher's.
        teacher_steps: Heun steps of the teacher.
        only: the labels that are run, where not all of an axis are.
        rates: multiples of each config's student_lr; the first seed tries them, all take its best.
    """

    unit: Literal["steps", "evaluations"] = "steps"
    amount: float = 4000
    points: int = 8
    seeds: int = 3
    samples: int = 10_000
    paired_samples: int = 512
    teacher_steps: int = 64
    only: Mapping[str, Sequence[Any]] = {}
    rates: Sequence[float] = (1.0,)


BUDGETS = {
    "trial": Size(amount=2, points=1, seeds=1, samples=16, paired_samples=8, teacher_steps=2),
    "short": Size(amount=300, points=1, samples=1000, paired_samples=128, teacher_steps=16),
    "full": Size(),
}
"""Sizes before a claim's own changes: trial is for tests, short takes ten minutes of two cores."""


class Arm(NamedTuple):
    """One setting that is trained: where it stands in the picture, and what it changes."""

    panel: str
    line: str
    x: str
    settings: Sequence[Settings]

    @property
    def label(self) -> str:
        """Its name in the tables and in `checks`."""
        return " / ".join(part for part in (self.panel, self.line, self.x) if part)


class Check(NamedTuple):
    """One comparison that the statement implies: a figure of each in `less` is below each in
    `than`.

    A place is an arm's label, "LABEL at X" on the axis of the reading (or at the part X of the
    training), or the ratio of two places, "PLACE over PLACE".
    """

    say: str
    less: Sequence[str]
    than: Sequence[str]
    figure: str


class Claim(NamedTuple):
    """A claim, as configs/claims/NAME.yml describes it.

    Args:
        name: of the file.
        order: of its place among all.
        title: in a few words.
        source: figure or table, and section.
        statement: of the paper, in one sentence.
        note: what a reader of our measurement must know.
        base: config of `freeflow fit` that every arm changes.
        common: what all arms change in it.
        panels: settings by label; a column of the picture each.
        lines: likewise; a line of each panel.
        x: likewise, along the axis of each panel.
        x_title: of that axis.
        levels: settings of horizontal lines, trained once in each panel.
        over_training: whether the axis is that of training.
        reading: name of the reading.
        reference: what FID is measured to: "faces", the real ones, or "teacher".
        figures: shown, the first being the main one.
        paper: the paper's figures by label.
        checks: what the statement implies.
        sizes: changes to the budgets.
    """

    name: str
    order: int
    title: str
    source: str
    statement: str
    base: str
    figures: Sequence[str]
    checks: Sequence[Check]
    note: str = ""
    common: Mapping[str, Any] = {}
    panels: Mapping[str, Settings] = {"": {}}
    lines: Mapping[str, Settings] = {"": {}}
    x: Mapping[str, Settings] = {"": {}}
    x_title: str = ""
    levels: Mapping[str, Settings] = {}
    over_training: bool = False
    reading: str = "sample"
    reference: str = "faces"
    paper: Mapping[str, float] = {}
    sizes: Mapping[str, Mapping[str, Any]] = {}

    @classmethod
    def of(cls, name: str, content: Mapping[str, Any]) -> "Claim":
        """Return the claim that a file's content describes (Raises: ValueError for unknown
        keys).
        """
        content = dict(content)
        unknown = set(content) - set(cls._fields) - {*BUDGETS}
        if unknown:
            raise ValueError(f"claim {name} has unknown keys: {', '.join(sorted(unknown))}")
        sizes = {budget: content.pop(budget) for budget in BUDGETS if budget in content}
        for axis in ("panels", "lines", "x", "levels", "paper"):
            if axis in content:
                content[axis] = {str(label): value for label, value in content[axis].items()}
        main = content["figures"][0]
        checks = [_check(each, main) for each in content.pop("checks")]
        return cls(name=name, sizes=sizes, checks=checks, **content)

    @property
    def read(self) -> Reading:
        """How its students are measured."""
        return READINGS[self.reading]

    def size(self, budget: str) -> Size:
        """Return what a budget spends on it; a trial keeps the first of each axis."""
        size = BUDGETS[budget]._replace(**self.sizes.get(budget, {}))
        if budget != "trial":
            return size
        axes = ("panels", "lines", "x", "levels")
        return size._replace(only={axis: list(getattr(self, axis))[:1] for axis in axes})

    def arms(self, size: Size) -> list[Arm]:
        """Return what is trained at a size."""

        def chosen(axis: str) -> list[tuple[str, Settings]]:
            only = size.only.get(axis)
            items = getattr(self, axis).items()
            return [(k, v) for k, v in items if only is None or k in map(str, only)]

        places = product(chosen("panels"), chosen("lines"), chosen("x"))
        arms = [Arm(p, k, x, (a, b, c)) for (p, a), (k, b), (x, c) in places]
        levels = product(chosen("panels"), chosen("levels"))
        return arms + [Arm(p, k, "", (a, b)) for (p, a), (k, b) in levels]


def _check(content: Mapping[str, Any], main: str) -> Check:
    less, than = (
        [side] if isinstance(side, str) else list(side)
        for side in (content["less"], content["than"])
    )
    return Check(content["say"], less, than, content.get("figure", main))
