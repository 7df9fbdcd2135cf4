"""What a search shows: the names of its folders, search.json, and its table."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from freeflow_lightning.commands.views.tables import Table
from freeflow_lightning.students.search.evaluations import Evaluations
from freeflow_lightning.students.search.folder import concat_states
from freeflow_lightning.students.search.noise_search import NoiseSearch

ROWS = ("student_unsearched", "student", "unsearched", "searched")
"""Folders of samples."""
COUNTED = (
    "one sample through one network once is 1; a guided velocity is 2; the student is 1 a step, "
    "a posterior draw 1, and 3 with its gradient. "
    "'all samples' is what the networks were given, rows included that fill a batch up to a "
    "multiple of 8"
)


def rows_of(setting: NoiseSearch, algorithm: str, candidates: int, compare: bool) -> dict[str, str]:
    """Return the folders of samples and what they hold."""
    on_paths, teacher_steps = algorithm == "paths", setting.sampler.steps
    student = "student" if setting.jumps.steps == 1 else f"student, {setting.jumps.name}"
    rows = {"student_unsearched": student} if compare else {}
    if algorithm == "steer":
        rows |= (
            {"unsearched": f"teacher, {teacher_steps} steps"} if compare and teacher_steps else {}
        )
        return rows | {"searched": "steered path"}
    rows["student"] = "best path, as scored" if on_paths else f"{student}, best of {candidates}"
    if teacher_steps:
        rows |= {"unsearched": f"teacher, {teacher_steps} steps"} if compare else {}
        rows["searched"] = "teacher, best path" if on_paths else "teacher, best noise"
    return rows


def report_of(records: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    """search.json: evaluations of one sample and of all, mean scores, scores by sample."""
    one = records[0]
    scores = {row: concat_states(records, row) for row in ROWS if row in one}
    return {
        "samples": count,
        "nfe": evaluations_of(records),
        "mean score": {row: float(values.double().mean()) for row, values in scores.items()},
        "scores": {row: values.tolist() for row, values in scores.items()},
        "labels": concat_states(records, "labels").tolist(),
    }


def evaluations_of(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Network evaluations of one sample and of all."""
    one = records[0]
    per_sample = {key: one[key] for key in ("search", "handed_over")}
    total = sum(sum(part.values()) for part in per_sample.values())
    sums = {}
    for key in ("used", "used_compared"):
        if key in one:
            value = sum((Evaluations(**record[key]) for record in records), Evaluations())
            sums[key] = asdict(value) | {"total": value.total}
    nfe = {
        "per sample": per_sample | {"total": total},
        "all samples": sums,
        "verifier, per sample": one["verified"],
        "what counts": COUNTED,
    }
    if "compared" in one:
        nfe["unsearched, per sample"] = one["compared"]
    return nfe


def search_tables(report: dict[str, Any], titles: dict[str, str], count: int) -> list[Table]:
    """Return the mean scores with what each row took."""
    nfe = report["nfe"]
    search, handed = nfe["per sample"]["search"], nfe["per sample"]["handed_over"]
    took = {
        "student": search["student"] + search["teacher"],
        "searched": nfe["per sample"]["total"],
    }
    if "unsearched, per sample" in nfe:
        took |= {"student_unsearched": nfe["unsearched, per sample"]["student"]}
        took |= {"unsearched": nfe["unsearched, per sample"]["teacher"]}
    rows = []
    for row, title in titles.items():
        split = ""
        if row == "searched":
            teacher = search["teacher"] + handed["teacher"]
            split = f" ({search['student']} student + {teacher} teacher)"
        rows.append([title, f"{report['mean score'][row]:.4g}", f"{took[row]}{split}"])
    header = ["", "mean score", "NFE per sample"]
    return [Table(f"freeflow search, {count} samples", header, rows)]
