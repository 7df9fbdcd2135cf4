"""Students of the embedded faces in 1, 2 and 4 evaluations beside their teacher: FID of 10,000 samples.

    python notebooks/tools/few_steps.py OUTPUT.json NAME=CHECKPOINT [...] [samples=10000] [sampler=chain,renoise]

FID is to the 10,000 real faces that were held out, in the features of the classifier of their attributes; beside it the share
of faces recognised as the class asked for, the mean distance of features within a class, and the combinations of attributes
seen. The teacher, 16 midpoint steps (some minutes), and all students start from the same noise. Writes OUTPUT.json, and prints
a Markdown table.
"""

import json
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from freeflow_lightning import FlowMap, Teacher
from freeflow_lightning.examples.faces.data import REFERENCE
from freeflow_lightning.metrics import FacesFeatures, Moments, frechet_distance, to_uint8
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.student_sampler import StudentSampler

BATCH = 100
STEPS = (1, 2, 4)


class Line(NamedTuple):
    """What one sampler's samples are like."""

    name: str
    evaluations: float
    fid: float
    recognised: float
    diversity: float
    modes: int


class Judge:
    """Looks at samples with the classifier of faces."""

    def __init__(self) -> None:
        self.network = FacesFeatures()
        with np.load(REFERENCE) as moments:
            self.real = Moments(torch.from_numpy(moments["mu"]), torch.from_numpy(moments["sigma"]))

    def teacher(self, teacher: Teacher, samples: int) -> Line:
        """The line of the teacher's samples."""
        return self.line("teacher", 32, TeacherSampler(teacher, "midpoint", 16), samples)

    @torch.no_grad()
    def line(self, name: str, evaluations: int, sampler: Sampler, samples: int) -> Line:
        """What the sampler's samples of the common noise are like."""
        seen, labels = [], []
        for index in torch.arange(samples).split(BATCH):
            z, condition = Draw().noise(sampler.teacher, index)
            seen.append(self.network.outputs(to_uint8(sampler(z, condition))))
            labels.append(condition)
        features, logits, modes = (
            torch.cat([part[what] for part in seen]) for what in ("features", "logits", "modes")
        )
        wide, asked = features.double(), torch.cat(labels)
        own = Moments(wide.mean(0), wide.T.cov())
        return Line(
            name,
            evaluations,
            float(frechet_distance(*own, *self.real)),
            float((logits.argmax(1) == asked).double().mean()),
            spread(wide, asked),
            len(modes.unique()),
        )


def spread(features: Tensor, labels: Tensor) -> float:
    """Mean distance of features within a class, over pairs of successive samples."""
    distances = []
    for label in labels.unique():
        of_class = features[labels == label]
        distances.append((of_class[1:] - of_class[:-1]).norm(dim=1))
    return float(torch.cat(distances).mean())


def markdown(lines: list[Line]) -> str:
    """The lines as a table, with FID in units of the teacher's."""
    rows = ["| | evaluations | FID | times its teacher's | recognised | diversity | modes |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|")
    for line in lines:
        seen = f"{line.recognised:.1%} | {line.diversity:.2f} | {line.modes}"
        ratio = line.fid / lines[0].fid
        rows.append(
            f"| {line.name} | {line.evaluations:g} | {line.fid:.2f} | {ratio:.2f} | {seen} |"
        )
    return "\n".join(rows)


def main() -> None:
    output, *rest = sys.argv[1:]
    named = dict(each.split("=", 1) for each in rest)
    samples = int(named.pop("samples", 10_000))
    samplers = named.pop("sampler", "chain").split(",")
    judge, lines = Judge(), []
    for name, path in named.items():
        flow_map = FlowMap.from_checkpoint(path)
        lines = lines or [judge.teacher(flow_map.teacher, samples)]
        for steps, sampler in product(STEPS, samplers):
            if steps == 1 and sampler != samplers[0]:
                continue  # one step is one step
            student = StudentSampler(flow_map, 1.0, steps, sampler)
            lines.append(judge.line(f"{name}, {sampler}", steps, student, samples))
    Path(output).write_text(json.dumps([line._asdict() for line in lines], indent=1) + "\n")
    print(markdown(lines))


if __name__ == "__main__":
    main()
