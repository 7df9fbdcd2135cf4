"""Everything that is to be measured on a GPU, in one unattended run of ten minutes.

    sh notebooks/tools/gpu_check/wheels.sh       # where there is a network: wheels/ beside this file
    sh notebooks/tools/gpu_check/run.sh OUT      # on the bare machine with the GPU: wheels, tests, all stages
    python notebooks/tools/gpu_check --output OUT --stages b,g              # some stages again
    python notebooks/tools/gpu_check --output OUT --render docs/measured.md # the tables, from the JSON alone
    python notebooks/tools/gpu_check --output OUT --tiny   # all stages in seconds on a CPU, with networks of no use

The stages stand in `stages.py`, the most valuable first. Each writes OUT/STAGE.json when it ends, and each of its cases
before it begins the next: a run that is cut keeps what it had, and one that is repeated keeps the cases that it does
not repeat. A case that fails is noted with its error, and the run goes on; so is one that takes longer than --limit. No
case begins after --seconds.
"""

import argparse
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from stages import STAGES
from subjects import Scale
from tables import render

from freeflow_lightning.profiling.hardware import machine
from freeflow_lightning.training.atomic_write import write_json, write_text


def main(words: list[str]) -> None:
    options = read_options(words)
    if options.render is not None:
        write_text(options.render, render(options.output))
        return
    device = torch.device(options.device)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once: deterministic kernels
    scale = Scale(options.output, device, options.tiny)
    options.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for name in options.stages.split(","):
        if time.perf_counter() - start > options.seconds:
            print(f"stage {name}: no time is left", flush=True)
            break
        run_stage(name, scale, options, start + options.seconds)
    write_text(options.output / "tables.md", render(options.output))


def read_options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=570)
    parser.add_argument("--limit", type=float, default=120, help="seconds of one case; 0 for none")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--commit", help="of this source, where it is no repository")
    parser.add_argument("--beside", help="what else the machine was doing")
    parser.add_argument("--render", type=Path)
    options = parser.parse_args(words)
    if unknown := set(options.stages.split(",")) - set(STAGES):
        parser.error(f"expected stages among {', '.join(STAGES)}, got {', '.join(sorted(unknown))}")
    return options


class TooSlowError(RuntimeError):
    """A case has taken longer than it may."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise a TooSlowError here after so many seconds; never for 0."""

    def stop(number: int, frame: Any) -> None:
        raise TooSlowError(f"cut after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_stage(name: str, scale: Scale, options: argparse.Namespace, end: float) -> None:
    """Run the cases of a stage that begin before `end`, and write its file after each."""
    where = machine(scale.device) | {"beside": options.beside}
    where["commit"] = options.commit or where["commit"]
    path = scale.output / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.is_file() else {}
    found: dict[str, Any] = {"machine": where, "tiny": scale.tiny, "cases": before}
    begun = time.perf_counter()
    for label, case in STAGES[name](scale):
        start = time.perf_counter()
        if start > end:
            print(f"stage {name}: no time is left for {label}", flush=True)
            break
        try:
            with limited(limit_of(name, options.limit)):
                figures = case()
        except Exception as error:
            figures = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            traceback.print_exc()
        figures |= {"wall_seconds": time.perf_counter() - start, "commit": where["commit"]}
        figures["beside"] = options.beside
        found["cases"][label] = figures
        found["seconds"] = time.perf_counter() - begun
        write_json(path, found)
        print(f"stage {name}: {label}: {figures}", flush=True)
        gc.collect()  # a Trainer and its recipe hold each other
        if scale.device.type == "cuda":
            torch.cuda.empty_cache()


def limit_of(stage: str, limit: float) -> float:
    """Return how long a case of a stage may take: a distillation's Trainer ends it by itself."""
    return 0 if stage == "f" else limit


if __name__ == "__main__":
    main(sys.argv[1:])
