"""Students of TransitionModule on the embedded faces over effective evaluations M (1 + (N - 1) H / L): FID of 3000
samples.

    python notebooks/tools/transition_steps.py OUTPUT.json NAME=CHECKPOINT [...] [samples=3000]

M outer steps of N inner steps each. FID is to the 10,000 real faces that were held out, as in few_steps.py, whose
columns these are. A student of another recipe is sampled in 1, 2 and 4 chained steps.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from few_steps import Judge, Line, markdown

from freeflow_lightning import FlowMap
from freeflow_lightning.nets import SplitConditioned
from freeflow_lightning.students.student_sampler import StudentSampler

PAIRS = ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (4, 1), (4, 2))
"""(M, N): outer steps and inner steps."""


def measure(judge: Judge, name: str, student: FlowMap, samples: int) -> list[Line]:
    """A line for each number of steps."""
    network, lines = student.network, []
    if not isinstance(network, SplitConditioned):
        for steps in (1, 2, 4):
            sampler = StudentSampler(student, 1.0, steps)
            lines.append(judge.line(name, steps, sampler, samples))
        return lines
    for outer, inner in PAIRS:
        if network.head.outer_steps % outer:
            continue  # asks at times that were not trained
        network.head = replace(network.head, steps=inner)
        sampler = StudentSampler(student, 1.0, outer, "transition" if outer > 1 else "chain")
        line = judge.line(f"{name}, M = {outer}, N = {inner}", outer, sampler, samples)
        lines.append(line._replace(evaluations=outer * network.evaluations))
    return lines


def main() -> None:
    output, *rest = sys.argv[1:]
    named = dict(each.split("=", 1) for each in rest)
    samples = int(named.pop("samples", 3000))
    torch.set_num_threads(1)
    judge, lines = Judge(), []
    for name, path in named.items():
        student = FlowMap.from_checkpoint(path)
        lines = lines or [judge.teacher(student.teacher, samples)]
        lines += measure(judge, name, student, samples)
    Path(output).write_text(json.dumps([line._asdict() for line in lines], indent=1) + "\n")
    print(markdown(lines))


if __name__ == "__main__":
    main()
