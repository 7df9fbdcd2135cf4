"""A student beside its teacher at several numbers of steps: one line of figures for each."""

import time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.evaluation.pick_features import MOST_FLAT, Name, pick_features
from freeflow_lightning.examples.digits.data import load_digits
from freeflow_lightning.flow import take
from freeflow_lightning.metrics import DigitsFeatures, FeatureNetwork, FrechetDistance, to_uint8
from freeflow_lightning.metrics.scores import relative_error
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap

STEPS = (1, 2, 4, 8, 64)


BATCH = 512


class Line(NamedTuple):
    """One sampler's figures; accuracy is None where nothing recognises the samples."""

    name: str
    guidance: float
    evaluations: int
    fid: float
    endpoint: float
    accuracy: float | None
    milliseconds: float


class Judge:
    """Frechet distance to fixed reference samples, and the share of recognised classes."""

    def __init__(self, reference: Tensor, features: FeatureNetwork) -> None:
        self.features, self.metric = features, FrechetDistance(features)
        self.metric.update(reference, real=True)

    def fid(self, drawn: Tensor) -> float:
        """Distance of samples, as `pictures` gives them, to the reference."""
        self.metric.reset()
        self.metric.update(drawn, real=False)
        return float(self.metric.compute())

    def accuracy(self, drawn: Tensor, labels: Tensor | None) -> float | None:
        """Share of samples that the classifier sees as the class they were drawn for."""
        if labels is None or not isinstance(self.features, DigitsFeatures):
            return None
        seen = self.features.logits(drawn).argmax(1).cpu()
        return float((seen == labels).float().mean())


def features_for(
    student: FlowMap, reference: str, features: Name | FeatureNetwork | None, weights: str | None
) -> FeatureNetwork:
    """The given network; else the digits' own for the digits, and by the size of decoded samples
    otherwise.
    """
    if features is None and reference == "digits":
        features = "digits"
    elif features is None:
        teacher = student.teacher
        origin = torch.zeros(1, *teacher.sample_shape, device=student.device)
        features = "flat" if teacher.decode(origin).numel() <= MOST_FLAT else "auto"
    return pick_features(features, weights, student.teacher, student.device)


def reference_samples(student: FlowMap, reference: str, n: int, gamma: float, seed: int) -> Tensor:
    """What FID compares with."""
    if reference == "digits":
        return to_uint8(load_digits()[0]).to(student.device)
    z, condition = student.teacher.draw_indexed(
        torch.arange(n), seed=seed, stream="reference", device=student.device
    )
    return pictures(
        student.teacher, TeacherSampler(student.teacher, "heun", 64, gamma)(z, condition)
    )


def timed(sampler: Sampler, z: Tensor, condition: Any) -> tuple[Tensor, float]:
    """All samples in batches, and milliseconds per sample."""
    parts, start = [], time.perf_counter()
    for rows in torch.arange(len(z), device=z.device).split(BATCH):
        parts.append(sampler(z[rows], take(condition, rows)))
    x = torch.cat(parts).cpu().to(z.device)
    return x, (time.perf_counter() - start) * 1000 / len(z)


def judged(
    who: str,
    k: int,
    gamma: float,
    x: Tensor,
    truth: Tensor,
    spent: float,
    judge: Judge,
    student: FlowMap,
    labels: Tensor | None,
) -> Line:
    """One line of the table."""
    drawn = pictures(student.teacher, x)
    branches = 1 if gamma == 1 else 2
    evaluations = 1 if who == "student" else 2 * k * branches
    error = float(relative_error(x, truth).mean())
    name = f"{who}, {k} step{'s' * (k > 1)}"
    return Line(
        name, gamma, evaluations, judge.fid(drawn), error, judge.accuracy(drawn, labels), spent
    )


def halves(judge: Judge) -> float:
    """FID between two random halves of the real digits: what sampling noise alone costs at half the
    count.
    """
    real = to_uint8(load_digits()[0])
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    half = FrechetDistance(judge.features)
    half.update(real[order[: len(real) // 2]], real=True)
    half.update(real[order[len(real) // 2 :]], real=False)
    return float(half.compute())
