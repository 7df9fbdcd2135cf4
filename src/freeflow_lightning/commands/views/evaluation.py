"""What freeflow evaluate shows: tables on screen, evaluation.json and evaluation.md."""

from math import isnan
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from freeflow_lightning.evaluation.scores import ClassRow, Result
from freeflow_lightning.metrics import Score
from freeflow_lightning.students.export.markdown import plain
from freeflow_lightning.training.output_folder import publish

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


NOTE, PAGE = "evaluation.json", "evaluation.md"


def write(result: Result, name: str, folder: Path) -> None:
    """The result on screen, as evaluation.json and as evaluation.md."""
    console = Console()
    explained = console.width >= WIDE  # elsewhere the meanings are in evaluation.md alone
    header = [
        "",
        name,
        "95 % interval",
        *["teacher itself"] * bool(result.floor),
        *[""] * explained,
    ]
    scores = Table(*header, title="freeflow evaluate")
    for row in score_rows(result):
        scores.add_row(*row[: len(header)])
    console.print(scores)
    if result.classes:
        classes = Table(*class_header(result), title=_classes_title(result))
        for row in class_rows(result):
            classes.add_row(*row)
        console.print(classes)
    publish(folder, NOTE, "evaluate", result.as_json(), {PAGE: markdown(result, name).encode()})
    print(f"written: {folder / PAGE}, {folder / NOTE}")


def score_rows(result: Result) -> list[list[str]]:
    """Name, value, interval, the teacher's own, meaning."""

    def interval(score: Score) -> str:
        return f"{score.low:.4g} .. {score.high:.4g}" if not isnan(score.low) else ""

    return [
        [
            title,
            f"{result.scores[key].value:.4g}",
            interval(result.scores[key]),
            *[f"{result.floor[key].value:.4g}" if key in result.floor else ""] * bool(result.floor),
            meaning,
        ]
        for key, (title, meaning) in TITLES.items()
        if key in result.scores
    ]


def worst_classes(result: Result) -> list[ClassRow]:
    """All classes, or the twenty with the largest kernel distance (endpoint error where there is
    none), worst first.
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
    return (
        "by class"
        if n <= SHOWN_CLASSES
        else f"the worst {SHOWN_CLASSES} of {n} classes (all in evaluation.json)"
    )


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
    """The columns that anything is known for."""
    return [_COLUMNS[name] for name in _columns(result)]


def class_rows(result: Result) -> list[list[str]]:
    """One line per class."""

    def cell(value: float) -> str:
        return "" if isnan(value) else str(value) if isinstance(value, int) else f"{value:.3g}"

    return [
        [cell(getattr(row, name)) for name in _columns(result)] for row in worst_classes(result)
    ]


def markdown(result: Result, name: str) -> str:
    """evaluation.md."""

    def lines(header: list[str], rows: list[list[str]]) -> list[str]:
        return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]

    header = ["", name, "95 % interval", *["teacher itself"] * bool(result.floor), ""]
    classes = [
        "",
        f"## {_classes_title(result).capitalize()}",
        "",
        *lines(class_header(result), class_rows(result)),
    ]
    about = [f"- {plain(key)}: {plain(_flat(value))}" for key, value in result.about.items()]
    return "\n".join(
        [
            f"# Evaluation: {name}, guidance {result.about['guidance']:g}",
            "",
            *lines(header, score_rows(result)),
            *(classes if result.classes else []),
            "",
            "## How it was made",
            "",
            *about,
            "",
        ]
    )


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(part)}" for key, part in value.items())
    return str(value)
