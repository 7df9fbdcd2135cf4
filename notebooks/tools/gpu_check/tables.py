"""The tables of docs, from the JSON of the stages: what was not measured is said so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Cases = dict[str, dict[str, Any]]
GIB = 2**30
ABOUT_CASE = ("wall_seconds", "commit", "beside")
"""What every case says of itself."""
ABOUT = """Written by `python notebooks/tools/gpu_check --output docs/gpu --render docs/measured.md` from the figures of
`sh notebooks/tools/gpu_check/run.sh docs/gpu`; do not edit. The networks have random weights, which cost what trained ones
do. Two leases of fifteen minutes: in the first the processor cores had other work, which the tables say. What
is not measured waits for the next."""


def render(output: Path) -> str:
    """Markdown of every stage in a folder, in the order of the alphabet."""
    parts = ["# Measured on a GPU", ABOUT]
    for name, (title, table) in TABLES.items():
        path = output / f"{name}.json"
        parts.append(f"## {title}")
        if not path.is_file():
            parts.append("Not measured.")
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        cases: Cases = found["cases"]
        if name == "b":
            add_estimates(cases, output / "i.json")
        machine = found["machine"]
        small = " Tiny networks, which say nothing of a GPU." if found["tiny"] else ""
        beside = f", beside {machine['beside']}" if machine.get("beside") else ""
        about = f"torch {machine['torch']}, commit {machine['commit']}{beside}"
        parts.append(f"On one {machine['device']}, {about}, in {found['seconds']:.0f} s.{small}")
        parts.append(table({k: v for k, v in cases.items() if "error" not in v}))
        parts += [f"* {k}: failed, {v['error']}" for k, v in cases.items() if "error" in v]
    return "\n\n".join(part for part in parts if part) + "\n"


def add_estimates(cases: Cases, path: Path) -> None:
    """Put stage i's memory beside what stage b measured."""
    found = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.is_file() else {}
    for name, figures in found.items():
        if "step" in cases.get(name, {}):
            cases[name]["memory"]["estimated"] = figures.get("bytes")


def rows(head: str, lines: list[list[str]]) -> str:
    """A Markdown table; nothing without lines."""
    if not lines:
        return ""
    columns = head.count("|") + 1
    made = [f"| {head} |", "|" + "---|" * columns]
    return "\n".join(made + ["| " + " | ".join(line) + " |" for line in lines])


def plain(cases: Cases) -> str:
    """Every figure of every case."""
    return rows("case | figures", [[name, words_of(x)] for name, x in cases.items()])


def words_of(figures: dict[str, Any]) -> str:
    kept = {k: v for k, v in figures.items() if k not in ABOUT_CASE}
    return ", ".join(f"{k} {number(v)}" for k, v in kept.items())


def number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "(" + words_of(value) + ")"
    return str(value)


def steps(cases: Cases) -> str:
    """Step times beside their floor, and the peers'."""
    ours = {k: v for k, v in cases.items() if "step" in v}
    lines = []
    for name, x in ours.items():
        step, memory = x["step"], x["memory"]
        mfu = "unknown" if step["mfu"] is None else f"{step['mfu']:.1%}"
        lines.append(
            [
                name,
                f"{1e3 * step['seconds']:.1f} ms",
                f"{step['samples_per_second']:.1f}",
                f"{step['ratio']:.3f}",
                mfu,
                gigabytes(memory["measured"]),
                gigabytes(memory["estimated"]),
                x["commit"] + (f", beside {x['beside']}" if x["beside"] else ""),
            ]
        )
    head = "step | time | samples/s | step / bare evaluations | MFU | peak memory | `inspect`'s estimate | commit"
    return rows(head, lines) + "\n\n" + peers(cases)


def peers(cases: Cases) -> str:
    lines = [
        [name, method, f"{1e3 * x['seconds']:.1f} ms", f"{x['samples_per_second']:.1f}"]
        for name, found in cases.items()
        if name.endswith("peers")
        for method, x in found.items()
        if isinstance(x, dict)
    ]
    return rows("network | method | step with its updates | samples/s", lines)


def gigabytes(value: float | None) -> str:
    return "not known" if value is None else f"{value / GIB:.2f} GiB"


def timed(cases: Cases) -> str:
    """Seconds, samples per second and memory."""
    lines = []
    for name, x in cases.items():
        rate = f"{x['samples_per_second']:.1f}" if "samples_per_second" in x else ""
        peak = gigabytes(x["peak_bytes"]) if x["peak_bytes"] else ""
        lines.append([name, f"{1e3 * x['seconds']:.2f} ms", rate, peak])
    return rows("case | time | samples/s | peak memory", lines)


def distillations(cases: Cases) -> str:
    """The last figures of each run, its scores on many samples, and its curve."""
    parts = []
    for name, x in cases.items():
        scores = "; ".join(
            f"{who}: FID {number(found['fid'])}, floor {number(found['floor'])}"
            for who, found in x.get("evaluated", {}).items()
        )
        parts.append(f"{name}: {x['steps'] + 1:.0f} steps. {words_of(x['last'])}")
        parts.append(scores)
        names = sorted({k for row in x["curve"] for k in row if k != "step"})
        lines = [[number(row.get(k, "")) for k in ("step", *names)] for row in x["curve"]]
        parts.append(rows(" | ".join(["step", *names]), lines))
    return "\n\n".join(part for part in parts if part)


def texts(cases: Cases) -> str:
    return "\n\n".join(x["text"] for x in cases.values())


TABLES: dict[str, tuple[str, Callable[[Cases], str]]] = {
    "a": ("Smoke", plain),
    "b": ("A training step", steps),
    "c": ("Precision", texts),
    "d": ("The prediction by each derivative", timed),
    "e": ("FSDP2, one process", plain),
    "f": ("Distillations", distillations),
    "g": ("Samples", timed),
    "h": ("Samples of exported students", timed),
}
"""The title and the table of each stage."""
