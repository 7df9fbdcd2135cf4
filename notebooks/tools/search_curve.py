"""Fig. 8 on the embedded digits: FID against network evaluations (NFE) per sample, with and without search.

    python notebooks/tools/search_curve.py OUTPUT NAME=CHECKPOINT [NAME=CHECKPOINT ...] [samples=4096] [candidates=64] [steps=8]

Each student tries noises for its teacher. An oracle, which reads FID itself, picks (the paper's Best-of-N); beside it the
classifier's log probability of the class. The teacher draws the picks with a few Heun steps, and without search with 1 to 64.
FID is to scikit-learn's 1797 real digits in the features of the digits' classifier; the same distance of pixels, which the
oracle does not see, stands beside it. Writes search_curve.json and search.png.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from freeflow_lightning import FlowMap
from freeflow_lightning.examples.digits.data import load_digits
from freeflow_lightning.metrics import (
    DigitsFeatures,
    FlatFeatures,
    FrechetDistance,
    mean_and_covariance,
    to_uint8,
)
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.draw import Draw, pictures
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.search import ClassScore, FrechetOracle, RandomSearch
from freeflow_lightning.students.search.noise_search import BatchSearchContext, NoiseSearch

BATCH = 512
STEPS = (4, 6, 8, 16, 32, 64)
GUIDED_STEPS = (2, 4, 8, 16, 32)


class Point(NamedTuple):
    """One way to draw: evaluations per sample, FID in the classifier's features, in pixels, share of recognised classes."""

    evaluations: int
    fid: float
    pixels: float
    recognised: float


class Judge:
    """Distances to the real digits."""

    def __init__(self) -> None:
        self.network = DigitsFeatures()
        self.real = to_uint8(load_digits()[0])
        self.metrics = [
            FrechetDistance(features, reset_real_features=False)
            for features in (self.network, FlatFeatures(64))
        ]
        for metric in self.metrics:
            metric.update(self.real, real=True)

    def __call__(self, evaluations: int, x: Tensor, labels: Tensor) -> Point:
        drawn, found = to_uint8(x), []
        for metric in self.metrics:
            metric.reset()
            metric.update(drawn, real=False)
            found.append(float(metric.compute()))
        right = (self.network.logits(drawn).argmax(1) == labels).float().mean()
        return Point(evaluations, *found, float(right))

    def oracle(self) -> FrechetOracle:
        f = self.network(self.real).double()
        return FrechetOracle(mean_and_covariance(f.sum(0), f.mT @ f, len(f)))


class Tried(NamedTuple):
    """Every candidate of every sample: noise [N, n, 1, 8, 8], the student's features [N, n, 64] and class scores [N, n]."""

    noise: Tensor
    features: Tensor
    score: Tensor


@torch.no_grad()
def tried(student: FlowMap, judge: Judge, candidates: int, samples: int) -> Tried:
    """One evaluation of the student for each candidate."""
    sampler = TeacherSampler(student.teacher)
    setting = NoiseSearch(
        student, ClassScore(judge.network), RandomSearch(1), sampler, batch_size=BATCH
    )
    grounds = [
        BatchSearchContext(setting, Draw(0), index) for index in torch.arange(samples).split(BATCH)
    ]
    noise, features, score = [], [], []
    for k in range(candidates):
        z = [ground.noise(range(k, k + 1)) for ground in grounds]
        x = [ground.student(part) for ground, part in zip(grounds, z, strict=True)]
        noise.append(torch.cat(z))
        features.append(judge.network(pictures(student.teacher, torch.cat(x))))
        score.append(
            torch.cat([ground.score(part) for ground, part in zip(grounds, x, strict=True)])
        )
    assert sum(ground.asked.student for ground in grounds) == candidates * samples
    return Tried(torch.stack(noise), torch.stack(features), torch.stack(score))


def powers(most: int) -> list[int]:
    """1, 2, 4 ... up to `most`."""
    return [1 << k for k in range(most.bit_length()) if 1 << k <= most]


def draw(curves: Mapping[str, Sequence[Sequence[float]]], steps: int, path: Path) -> None:
    """FID over evaluations: the teacher alone, and from what each student's search with the oracle has found."""
    names = {n: n for n in curves if n.startswith("teacher")}
    names |= {n: f"search, {n.removesuffix(', oracle')}" for n in curves if n.endswith("oracle")}
    shown = {
        title: ([p[0] for p in curves[name]], [p[1] for p in curves[name]])
        for name, title in names.items()
    }
    title = f"teacher: alone, and at {steps} Heun steps from searched noise"
    figure = plots.curves(
        shown,
        xlabel="NFE per sample, student's and teacher's",
        ylabel="FID",
        title=title,
        log=True,
        log_x=True,
    )
    figure.set_figwidth(7)
    figure.axes[0].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    plots.save(figure, path)


def main() -> None:
    """Draw the curves."""
    if len(sys.argv) < 3 or not all("=" in word for word in sys.argv[2:]):
        raise SystemExit(__doc__)
    output, *words = sys.argv[1:]
    given = dict(word.split("=", 1) for word in words)
    samples, candidates, steps = (int(given.pop(name, default)) for name, default in
                                  (("samples", 4096), ("candidates", 64), ("steps", 8)))  # fmt: skip
    students = {name: FlowMap.from_checkpoint(path) for name, path in given.items()}
    teacher, judge = next(iter(students.values())).teacher, Judge()
    z, labels = Draw(0).noise(teacher, torch.arange(samples))
    batches, picked = torch.arange(samples).split(BATCH), torch.arange(samples)

    def drawn(z: Tensor, count: int, guidance: float = 1.0) -> Tensor:
        sampler = TeacherSampler(teacher, "heun", count, guidance)
        return torch.cat([sampler(z[rows], labels[rows]) for rows in batches])

    curves: dict[str, list[Point]] = {"teacher": [judge(2 * k, drawn(z, k), labels) for k in STEPS]}
    curves["teacher, guidance 1.5"] = [judge(4 * k, drawn(z, k, 1.5), labels) for k in GUIDED_STEPS]
    for name, student in students.items():
        known = tried(student, judge, candidates, samples)
        for verifier in ("oracle", "class score"):
            line, alone = (
                curves[f"{name}, {verifier}"],
                curves[f"{name}, {verifier}, student's own"],
            ) = [], []
            for n in powers(candidates):
                choice = (
                    judge.oracle().pick(known.features[:n])
                    if verifier == "oracle"
                    else known.score[:n].argmax(0)
                )
                noise = known.noise[choice, picked]
                line.append(judge(n + 2 * steps, drawn(noise, steps), labels))
                alone.append(
                    judge(
                        n,
                        torch.cat([student(noise[rows], labels[rows], 1.0) for rows in batches]),
                        labels,
                    )
                )
                print(
                    f"{name}, {verifier}, {n} candidates: {line[-1]}; the student's: {alone[-1]}",
                    flush=True,
                )

    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "samples": samples,
        "steps of the searched teacher": steps,
        "students": given,
        "order": list(Point._fields),
    }
    (folder / "search_curve.json").write_text(
        json.dumps({"about": about, "curves": curves}, indent=1) + "\n"
    )
    draw(curves, steps, folder / "search.png")
    for name, line in curves.items():
        print(name, *(f"{p.evaluations}: {p.fid:.2f}" for p in line), sep="  ")


if __name__ == "__main__":
    main()
