"""The table that freeflow search shows."""

from typing import Any

from rich.console import Console
from rich.table import Table


def show(report: dict[str, Any], titles: dict[str, str], count: int) -> None:
    """The mean scores with what each row took, on screen."""
    nfe = report["nfe"]
    search, handed = nfe["per sample"]["search"], nfe["per sample"]["handed_over"]
    took = {
        "student": search["student"] + search["teacher"],
        "searched": nfe["per sample"]["total"],
    }
    if "unsearched, per sample" in nfe:
        took |= {"student_unsearched": nfe["unsearched, per sample"]["student"]}
        took |= {"unsearched": nfe["unsearched, per sample"]["teacher"]}
    table = Table("", "mean score", "NFE per sample", title=f"freeflow search, {count} samples")
    for row, title in titles.items():
        split = (
            f" ({search['student']} student + {search['teacher'] + handed['teacher']} teacher)"
            if row == "searched"
            else ""
        )
        table.add_row(title, f"{report['mean score'][row]:.4g}", f"{took[row]}{split}")
    Console().print(table)
