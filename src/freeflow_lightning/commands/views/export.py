"""What an export shows: the figures of the model card, and the files that were written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from freeflow_lightning.commands.views.evaluation import TITLES
from freeflow_lightning.sampling.hashes import weights_hash
from freeflow_lightning.students.export.markdown import plain
from freeflow_lightning.students.flow_map import FlowMap


class Figures(NamedTuple):
    """What is known of a student's quality: lines of Markdown, and scores by title."""

    lines: list[str]
    metrics: dict[str, float]


NOTHING_KNOWN = Figures([], {})


def figures_of(student: FlowMap, run: Path | None, given: str | Path | None) -> Figures:
    """Return what is known of the quality of these very weights: from an evaluation, or else the
    run's report.
    """
    if given is not None and not Path(given).is_file():
        raise FileNotFoundError(
            f"no evaluation at {given}: freeflow evaluate writes evaluation.json"
        )
    places = (
        [Path(given)]
        if given
        else [folder / "evaluation" / "evaluation.json" for folder in (run, Path()) if folder]
    )
    for path in places:
        if path.is_file() and (
            figures := from_evaluation(path, weights_hash(student.network)[:16], given is not None)
        ):
            return figures
    reported = (
        run is not None
        and (run / "report.md").is_file()
        and student.about.get("average") in _first_average(student)
    )
    if reported and run is not None:
        return Figures(from_report(run / "report.md"), {})
    return NOTHING_KNOWN


def _first_average(student: FlowMap) -> list[str]:
    """Return what a run's report has measured."""
    names = student.about.get("averages") or ["raw"]
    return names[:1]


def from_evaluation(path: Path, weights: str, demanded: bool) -> Figures | None:
    """Return the scores of evaluation.json; None if it measured other weights, which is an error
    where it was asked for.
    """
    try:
        result = json.loads(path.read_text())
        scores, facts = result["scores"], result["about"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} was not written by freeflow evaluate ({error})") from error
    if facts.get("weights") != weights:
        if demanded:
            raise ValueError(
                f"{path} measured other weights than these: evaluate the same checkpoint and "
                f"--average"
            )
        print(f"{path} measured other weights than these: left out of the card")
        return None
    metrics = {
        TITLES[key][0]: score["value"]
        for key, score in scores.items()
        if key in TITLES and score["value"] is not None
    }
    sides = result.get("by_steps") or [{"drawn by": "", "scores": scores}]
    rows = []
    for key, (name, meaning) in TITLES.items():
        if key in scores:
            cells = [f"{side['scores'][key]['value']:.4g}" for side in sides]
            rows.append(f"| {' | '.join([name, *cells, meaning])} |")
    heads = [plain(side["drawn by"]) for side in sides]
    made = [
        f"{facts.get('samples')} samples",
        f"guidance {facts.get('guidance')}",
        f"{facts.get('evaluator')}",
    ]
    lines = [
        f"| {' | '.join(['', *heads, ''])} |",
        f"| {' | '.join(['---', *['---:' for _ in sides], '---'])} |",
        *rows,
        "",
        plain(", ".join(made) + f"; compared with {json.dumps(facts.get('reference'))}."),
    ]
    return Figures(lines, metrics)


def from_report(path: Path) -> list[str]:
    """Return the table of a run's report.md, with the paragraph before it."""
    lines = path.read_text().splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith("| sampler")), None)
    if first is None:
        return []
    last = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
    start = next((i for i in range(first - 2, -1, -1) if not lines[i]), -1) + 1
    return lines[start:last]


def list_files(folder: Path) -> list[str]:
    """Return the files of a folder, ascending, with their sizes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [f"{path.relative_to(folder)}  {path.stat().st_size:,} bytes" for path in files]


def export_text(folder: Path, average: str, checked: Sequence[str], notes: Sequence[str]) -> str:
    """Return what was written, and what is to be said of it."""
    files = list_files(folder)
    head = f"{folder}: {average}, {len(files)} files; its weights come back bit for bit"
    return "\n".join([*checked, head, *(f"  {file}" for file in files), *notes])
