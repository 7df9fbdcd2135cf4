"""What an evaluation shows: tables on screen and in a notebook, evaluation.json, evaluation.md."""

from collections.abc import Sequence
from math import isnan
from typing import Any

from rich.console import Console

from freeflow_lightning.commands.views.tables import (
    Table,
    print_tables,
    table_markdown,
    table_text,
    tables_html,
)
from freeflow_lightning.evaluation.scores import ClassRow, Result
from freeflow_lightning.metrics import Score
from freeflow_lightning.students.export.markdown import plain

TITLES = {
    "fid": ("FID", "Frechet distance of features; 0 is best, and it shrinks with more samples"),
    "sfid": ("sFID", "the same on Inception's spatial features, as ADM defines it"),
    "kid": ("KID", "kernel distance; unbiased: around 0 where nothing differs"),
    "precision": ("precision", "share of samples inside the reference's support (fidelity)"),
    "recall": ("recall", "share of the reference inside the samples' support (diversity)"),
    "density": (
        "density",
        "how densely the reference surrounds the samples; 1 where nothing differs",
    ),
    "coverage": ("coverage", "share of the reference that has a sample next to it"),
    "inception_score": ("Inception Score", "higher is better; ADM's splits of 5000"),
    "diversity": (
        "diversity",
        "mean distance within a class over the reference's; below 1, modes are lost",
    ),
    "recognised": ("recognised", "share that a classifier sees as the class asked for"),
    "modes": ("modes", "different combinations of attributes among the samples"),
    "endpoint_error": (
        "endpoint error",
        "distance to the teacher's sample x of the same noise, over the norm of x",
    ),
    "displacement_error": (
        "displacement error",
        "that over the norm of x - z: 1 is as far off as noise from its sample",
    ),
}


SHOWN_CLASSES = 20


WIDE = 120
"""Columns of a terminal from which on the meanings of the scores are shown; elsewhere they are in
evaluation.md alone.
"""


NOTED = ("samples", "guidance", "checkpoint")
"""Facts that a notebook shows below the tables."""


NOTE, PAGE = "evaluation.json", "evaluation.md"


def evaluation_tables(results: Sequence[Result], *, explained: bool = True) -> list[Table]:
    """Scores, classes and, of several results, scores by steps.

    Args:
        results: the first one is told with intervals and classes; the same student's at other
            numbers of steps may follow. None on other processes than the first.
        explained: whether the meaning of each score is a column.
    """
    if not results:
        return []
    first, name = results[0], drawn_by(results[0])
    header = ["", name, "95 % interval", *floor_header(first), *[""] * explained]
    made = [Table(f"freeflow evaluate: {seen_by(first)}", header, score_rows(first))]
    if first.classes:
        made.append(Table(_classes_title(first), class_header(first), class_rows(first)))
    if len(results) > 1:
        made.append(Table("by steps", step_header(results), step_rows(results)))
    return made


def show(results: Sequence[Result]) -> None:
    """Print the tables, with the meanings of the scores where the terminal is wide."""
    print_tables(evaluation_tables(results, explained=Console().width >= WIDE))


def evaluation_text(results: Sequence[Result]) -> str:
    """Return the tables without a terminal."""
    return table_text(evaluation_tables(results, explained=False))


def html(results: Sequence[Result]) -> str:
    """Return the tables for a notebook."""
    about = results[0].about if results else {}
    facts = [f"{name} {about[name]}" for name in NOTED if name in about]
    return tables_html(evaluation_tables(results), ", ".join(facts))


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """evaluation.json: the first result, and the scores of all where there are several."""
    if len(results) == 1:
        return results[0].as_json()
    by_steps = []
    for result in results:
        plain_result = result.as_json()
        drawn = {key: result.about.get(key, 1) for key in ("drawn by", "steps")}
        by_steps.append(drawn | {"scores": plain_result["scores"]})
    return results[0].as_json() | {"by_steps": by_steps}


def seen_by(result: Result) -> str:
    """Return the feature network of the scores, and what its distances cannot be compared with."""
    features = result.about["features"]
    name = features["class"].rsplit(".", 1)[1].removesuffix("Features")
    return f"{name} features" + (f", {features['note']}" if features["note"] else "")


def drawn_by(result: Result) -> str:
    """Return who drew the samples, and in how many steps."""
    return str(result.about["drawn by"])


def floor_header(result: Result) -> list[str]:
    """Return the heading of the teacher's own scores, where there are any."""
    return ["teacher itself"] if result.floor else []


def step_header(results: Sequence[Result]) -> list[str]:
    """Return the heading of the table by steps."""
    return ["", *(drawn_by(result) for result in results), *floor_header(results[0])]


def step_rows(results: Sequence[Result]) -> list[list[str]]:
    """Return one line per score, one column per number of steps, and the teacher's own."""
    rows = []
    for key, (title, _) in TITLES.items():
        if key in results[0].scores:
            cells = [f"{result.scores[key].value:.4g}" for result in results]
            rows.append([title, *cells, *floor_cell(results[0], key)])
    return rows


def floor_cell(result: Result, key: str) -> list[str]:
    """Return the teacher's own score, where there are any."""
    if not result.floor:
        return []
    return [f"{result.floor[key].value:.4g}" if key in result.floor else ""]


def score_rows(result: Result) -> list[list[str]]:
    """Name, value, interval, the teacher's own, meaning."""

    def interval(score: Score) -> str:
        return f"{score.low:.4g} .. {score.high:.4g}" if not isnan(score.low) else ""

    return [
        [
            title,
            f"{result.scores[key].value:.4g}",
            interval(result.scores[key]),
            *floor_cell(result, key),
            meaning,
        ]
        for key, (title, meaning) in TITLES.items()
        if key in result.scores
    ]


def worst_classes(result: Result) -> list[ClassRow]:
    """Return all classes, or the twenty with the largest kernel distance (endpoint error where
    there is none), worst first.
    """
    rows = result.classes
    if len(rows) <= SHOWN_CLASSES:
        return rows

    def badness(row: ClassRow) -> float:
        known = [value for value in (row.kid, row.endpoint) if not isnan(value)]
        return -known[0] if known else 0.0

    return sorted(rows, key=badness)[:SHOWN_CLASSES]


def _classes_title(result: Result) -> str:
    n = len(result.classes)
    if n <= SHOWN_CLASSES:
        return "by class"
    return f"the worst {SHOWN_CLASSES} of {n} classes (all in evaluation.json)"


_COLUMNS = {
    "label": "class",
    "samples": "samples",
    "kid": "KID",
    "kid_floor": "KID, teacher itself",
    "endpoint": "endpoint error",
    "diversity": "diversity",
    "recognised": "recognised",
}


def _columns(result: Result) -> list[str]:
    return [
        name for name in _COLUMNS if not all(isnan(getattr(row, name)) for row in result.classes)
    ]


def class_header(result: Result) -> list[str]:
    """Return the columns that anything is known for."""
    return [_COLUMNS[name] for name in _columns(result)]


def class_rows(result: Result) -> list[list[str]]:
    """Return one line per class."""

    names = _columns(result)
    return [[_cell(getattr(row, name)) for name in names] for row in worst_classes(result)]


def _cell(value: float) -> str:
    if isnan(value):
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def evaluation_markdown(results: Sequence[Result]) -> str:
    """evaluation.md."""
    first, name = results[0], drawn_by(results[0])
    header = ["", name, "95 % interval", *floor_header(first), ""]
    parts = [f"# Evaluation: {name}, guidance {first.about['guidance']:g}"]
    parts += ["", f"Seen by {seen_by(first)}."]
    parts += ["", *table_markdown(Table("", header, score_rows(first)))]
    if len(results) > 1:
        parts += [
            "",
            "## By steps",
            "",
            *table_markdown(Table("", step_header(results), step_rows(results))),
        ]
    if first.classes:
        parts += ["", f"## {_classes_title(first).capitalize()}"]
        parts += ["", *table_markdown(Table("", class_header(first), class_rows(first)))]
    about = [f"- {plain(key)}: {plain(_flat(value))}" for key, value in first.about.items()]
    return "\n".join([*parts, "", "## How it was made", "", *about, ""])


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(part)}" for key, part in value.items())
    return str(value)
