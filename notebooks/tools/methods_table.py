"""The tables of docs/methods.md and README.md, from what `freeflow compare` and `freeflow reproduce` have measured.

python methods_table.py docs/measured/methods_digits.json [--short]
python methods_table.py docs/reproduce/methods.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

STEPS = ("1", "2", "4", "8")


def figure(final: dict[str, Any], steps: str, name: str) -> str:
    """Mean and spread of a figure over the seeds; a dash where the method takes no such steps."""
    if steps not in final:
        return "-"
    mean, deviation = final[steps][name]["mean"], final[steps][name]["deviation"]
    digits = 3 if name in ("endpoint_error", "diversity") else (1 if mean >= 10 else 2)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def full_table(measured: dict[str, Any]) -> list[str]:
    """FID to the teacher's samples and to the real digits, at each number of steps."""
    lines = [
        "| config | FID to the teacher at 1 | 2 | 4 | 8 | FID to the digits at 1 | 2 | 4 | 8 | endpoint error at 1 | 4 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for method in measured["methods"]:
        final = method["final"]
        cells = [figure(final, steps, "fid") for steps in STEPS]
        cells += [figure(final, steps, "fid_to_statistics") for steps in STEPS]
        cells += [figure(final, steps, "endpoint_error") for steps in ("1", "4")]
        lines.append(f"| `{method['name']}` | {' | '.join(cells)} |")
    return [*lines, *teacher_rows(measured)]


def teacher_rows(measured: dict[str, Any]) -> list[str]:
    """What the teacher's own Euler steps score, and its samples from other noise."""
    by_steps = measured["teacher"]
    names = ("fid", "fid_to_statistics")
    cells = [f"{by_steps[steps][name]:.3g}" for name in names for steps in STEPS]
    cells += [f"{by_steps[steps]['endpoint_error']:.3f}" for steps in ("1", "4")]
    floor = measured["floor"]
    own = [f"{floor['fid']:.2f}"] * 4 + [f"{floor['fid_to_statistics']:.2f}"] * 4 + ["0", "0"]
    return [
        f"| the teacher, Euler steps | {' | '.join(cells)} |",
        f"| the teacher, 32 Heun steps | {' | '.join(own)} |",
    ]


def short_table(measured: dict[str, Any]) -> list[str]:
    """FID to the real digits alone."""
    lines = ["| config | FID at 1 step | 2 | 4 | 8 |", "|---|---:|---:|---:|---:|"]
    for method in measured["methods"]:
        cells = [figure(method["final"], steps, "fid_to_statistics") for steps in STEPS]
        lines.append(f"| `{method['name']}` | {' | '.join(cells)} |")
    cells = [f"{measured['teacher'][steps]['fid_to_statistics']:.3g}" for steps in STEPS]
    return [*lines, f"| the teacher, Euler steps | {' | '.join(cells)} |"]


def claim_table(measured: dict[str, Any]) -> list[str]:
    """The comparison on the faces: a line for each method where the claim's page has one for each number of steps."""
    lines = [
        "| method | FID at 1 step | 2 | 4 | 8 | endpoint error at 1 | 4 | diversity at 1 | 4 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    columns = [(steps, "fid") for steps in STEPS]
    columns += [(steps, name) for name in ("endpoint_error", "diversity") for steps in ("1", "4")]
    for label, arm in measured["arms"].items():
        cells = [figure(arm["final"], steps, name) for steps, name in columns]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    teacher = [f"{measured['teacher'][steps][name]:.3g}" for steps, name in columns]
    return [*lines, f"| the teacher, Euler steps | {' | '.join(teacher)} |"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measured", type=Path)
    parser.add_argument("--short", action="store_true", help="the README's table")
    options = parser.parse_args()
    content = json.loads(options.measured.read_text())
    full = claim_table if "claim" in content else full_table
    print("\n".join((short_table if options.short else full)(content)))
