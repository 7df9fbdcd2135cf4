"""Steering beside best of N at equal network evaluations: faces with a hat and glasses from a student without classes.

    python notebooks/tools/steering.py OUTPUT.json CHECKPOINT [samples=128]

The reward is log p(hat and glasses | picture) of the classifier of faces, so the tilted law p(x0) exp r(x0) is that of
faces with both. Each line is what `freeflow search --algorithm steer` (4 draws a step, by weights) and `--algorithm
random`, with the student's own sample or with 8 Heun steps of the teacher from the best noise, give for so many
evaluations a sample: the mean reward, the share with both by the classifier, the Frechet distance of features to half
of the shipped real faces with both (of so few samples it is large even between equal laws: see the line of the other
half), and the mean distance of features between successive samples. Writes OUTPUT.json and prints a Markdown table.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from freeflow_lightning import FlowMap
from freeflow_lightning.examples.faces import load_faces
from freeflow_lightning.metrics import FacesFeatures, Moments, frechet_distance, to_uint8
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.search import Algorithm, RandomSearch, Steering
from freeflow_lightning.students.search.noise_search import NoiseSearch
from freeflow_lightning.teachers import SiTTeacher

EVALUATIONS = (20, 40, 80)
DRAWS, HEUN_STEPS = 4, 8
BOTH = (3, 7)
"""The classes with a hat and glasses: with short hair, and with long."""


class HatAndGlasses(nn.Module):
    """log p(hat and glasses | picture), by the classifier of faces; a verifier, `--verifier steering.HatAndGlasses`."""

    def __init__(self) -> None:
        super().__init__()
        self.network = FacesFeatures()

    def forward(self, samples: Tensor, condition: Any) -> Tensor:
        """Scores [B], at most 0, of uint8 pictures [B, 3, 16, 16]."""
        logits = self.network.outputs(samples)["logits"].log_softmax(1)
        return logits[:, list(BOTH)].logsumexp(1)


class Line(NamedTuple):
    """What one way to draw gives."""

    name: str
    evaluations: int
    reward: float
    share: float
    distance: float
    diversity: float


class Judge:
    """Looks at pictures with the classifier of faces."""

    def __init__(self) -> None:
        self.verifier = HatAndGlasses()
        faces = load_faces()
        wanted = faces.pictures[torch.isin(faces.labels, torch.tensor(BOTH))]
        self.others, self.real = wanted.chunk(2)

    def __call__(self, name: str, evaluations: int, pictures: Tensor) -> Line:
        network = self.verifier.network
        seen = network.outputs(pictures)
        features = seen["features"].double()
        both = torch.isin(seen["logits"].argmax(1), torch.tensor(BOTH))
        return Line(
            name,
            evaluations,
            float(self.verifier(pictures, None).mean()),
            float(both.double().mean()),
            float(frechet_distance(*moments(features), *moments(network(self.real).double()))),
            float((features[1:] - features[:-1]).norm(dim=1).mean()),
        )


def ask_for_classes(samples: int) -> Tensor:
    """Faces of the teacher that is told the classes, uint8 [N, 3, 16, 16]: what the tilted law is like."""
    sampler = TeacherSampler(SiTTeacher("embedded:faces"), "heun", 16, 1.0)
    return to_uint8(sampler(*Draw(0, BOTH).noise(sampler.teacher, torch.arange(samples))))


def draw_plainly(student: FlowMap, samples: int) -> Tensor:
    """Faces of the student in one step, uint8 [N, 3, 16, 16]."""
    z, condition = Draw(0).noise(student.teacher, torch.arange(samples))
    return to_uint8(student(z, condition, 1.0))


def moments(features: Tensor) -> Moments:
    """Mean and covariance of features [N, D]."""
    return Moments(features.mean(0), features.T.cov())


def ways(evaluations: int) -> dict[str, tuple[Algorithm, int]]:
    """The algorithms that take so many evaluations a sample, with the teacher's last steps."""
    steps = evaluations // (DRAWS + 1)
    found: dict[str, tuple[Algorithm, int]] = {
        "steer": (Steering(DRAWS * steps, DRAWS), 0),
        "best of N, the student's sample": (RandomSearch(evaluations), 0),
    }
    rest = evaluations - 2 * HEUN_STEPS
    found[f"best of N, then {HEUN_STEPS} Heun steps"] = (RandomSearch(rest), HEUN_STEPS)
    return found


def search(student: FlowMap, judge: Judge, evaluations: int, samples: int) -> list[Line]:
    """A line of each way to spend the evaluations."""
    lines, index = [], torch.arange(samples)
    for name, (algorithm, steps) in ways(evaluations).items():
        sampler = TeacherSampler(student.teacher, "heun", steps, 1.0)
        found = NoiseSearch(student, judge.verifier, algorithm, sampler)(Draw(0), index)
        spent = (found.search + found.handed_over).total
        lines.append(judge(name, spent, to_uint8(found.final)))
        print(lines[-1], flush=True)
    return lines


def markdown(lines: list[Line]) -> str:
    """The lines as a table."""
    rows = ["| | evaluations | reward | with both | Frechet distance | diversity |"]
    rows.append("|---|---:|---:|---:|---:|---:|")
    for line in lines:
        figures = (
            f"{line.reward:.2f} | {line.share:.1%} | {line.distance:.2f} | {line.diversity:.2f}"
        )
        rows.append(f"| {line.name} | {line.evaluations or ''} | {figures} |")
    return "\n".join(rows)


@torch.no_grad()
def main() -> None:
    output, checkpoint, *rest = sys.argv[1:]
    samples = int(dict(each.split("=") for each in rest).get("samples", 128))
    torch.set_num_threads(1)
    student, judge = FlowMap.from_checkpoint(checkpoint), Judge()
    lines = [
        judge("real faces with both", 0, judge.others[:samples]),
        judge("the teacher with classes, 16 Heun steps", 32, ask_for_classes(samples)),
        judge("the student without a search", 1, draw_plainly(student, samples)),
    ]
    for evaluations in EVALUATIONS:
        lines += search(student, judge, evaluations, samples)
    Path(output).write_text(json.dumps([line._asdict() for line in lines], indent=1) + "\n")
    print(markdown(lines))


if __name__ == "__main__":
    main()
