"""A student beside its teacher at several numbers of steps: one line of figures for each."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from freeflow_lightning.evaluation.comparison import Start
from freeflow_lightning.evaluation.pick_features import Name, pick_features
from freeflow_lightning.evaluation.scores import knows_classes
from freeflow_lightning.examples.digits.data import load_digits
from freeflow_lightning.examples.faces.data import load_faces
from freeflow_lightning.flow import take
from freeflow_lightning.metrics import (
    FeatureNetwork,
    FrechetDistance,
    to_uint8,
    warn_of_few_samples,
)
from freeflow_lightning.metrics.scores import relative_error
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.sampling.jumps import Jumps
from freeflow_lightning.sampling.sampler import Sampler
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.student_sampler import StudentSampler
from freeflow_lightning.teachers import Teacher

Reference = Literal["teacher", "faces", "digits"]
REAL: dict[str, Callable[[], Tensor]] = {
    "faces": lambda: load_faces().pictures,
    "digits": lambda: to_uint8(load_digits()[0]),
}
"""Real pictures, uint8 [N, C, H, W], by the name of their teacher."""
STEPS = (1, 2, 4, 8, 64)
"""Of the teacher."""
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
    """Frechet distance to fixed reference samples, and the share of recognised classes.

    Args:
        reference: what is compared with, as the feature network takes it, [N, ...].
        features: on the reference's device.
    """

    def __init__(self, reference: Tensor, features: FeatureNetwork) -> None:
        self.features = features
        self.device = reference.device
        self.metric = FrechetDistance(features).to(self.device)
        self.reference_samples = len(reference)
        add_samples(self.metric, reference, real=True)

    def fid(self, drawn: Tensor) -> float:
        """Distance of samples, as `pictures` gives them, to the reference."""
        warn_of_few_samples(min(len(drawn), self.reference_samples), self.features.num_features)
        self.metric.reset()
        add_samples(self.metric, drawn, real=False)
        return float(self.metric.compute())

    def accuracy(self, drawn: Tensor, labels: Tensor | None, num_classes: int) -> float | None:
        """Share of samples [N, ...] that are seen as the class that they were drawn for, of so
        many; None where nothing tells these classes apart.
        """
        if labels is None or not self.features.classifies(num_classes):
            return None
        logits = [self.features.see(part)["logits"] for part in drawn.split(BATCH)]
        seen = torch.cat(logits).argmax(1).cpu()
        return float((seen == labels).float().mean())


def add_samples(metric: FrechetDistance, samples: Tensor, *, real: bool) -> None:
    """Add samples [N, ...] to a metric, as many at once as are drawn at once."""
    for part in samples.split(BATCH):
        metric.update(part, real=real)


def features_for(
    student: FlowMap,
    reference: Reference,
    features: Name | FeatureNetwork | None,
    weights: str | None,
) -> FeatureNetwork:
    """Return the given network; else that of the real pictures, or what suits the samples."""
    if features is None:
        features = "auto" if reference == "teacher" else reference
    return pick_features(features, weights, student.teacher, student.device)


def reference_samples(
    student: FlowMap, reference: Reference, n: int, gamma: float, seed: int
) -> Tensor:
    """Return what FID compares with."""
    if reference in REAL:
        return REAL[reference]().to(student.device)
    z, condition = student.teacher.draw_indexed(
        torch.arange(n), seed=seed, stream="reference", device=student.device
    )
    sampler = TeacherSampler(student.teacher, "heun", 64, gamma)
    drawn = drawn_from(Inputs(z, condition, None), sampler)
    return pictures(student.teacher, drawn.x, batch_size=BATCH)


class Inputs(NamedTuple):
    """Noise [B, *sample_shape] and conditions that all samplers draw from, and the classes [B]."""

    z: Tensor
    condition: Any
    labels: Tensor | None


class Drawn(NamedTuple):
    """A sampler's samples [B, *sample_shape], and milliseconds for each."""

    x: Tensor
    milliseconds: float


def drawn_from(
    inputs: Inputs, sampler: Sampler, advance: Callable[[int], None] = lambda n: None
) -> Drawn:
    """Return all samples, in batches; `advance` is told the size of each."""
    z, parts, start = inputs.z, [], time.perf_counter()
    for rows in torch.arange(len(z), device=z.device).split(BATCH):
        parts.append(sampler(z[rows], take(inputs.condition, rows)))
        advance(len(rows))
    x = torch.cat(parts).cpu().to(z.device)
    return Drawn(x, (time.perf_counter() - start) * 1000 / len(z))


def in_silence(name: str, total: int | None) -> Callable[[int], None]:
    """Return a `Start` that tells nobody."""
    return lambda n: None


class StepsTable:
    """Lines of figures of samplers that draw from the same noise, and the samples they are of.

    Args:
        judge: gives the figures.
        inputs: of every sampler.
        start: told which sampler begins and of how many samples; returns what is told of each
            batch.

    Attributes:
        lines: one for each sampler and guidance.
        shown: the samples by the name of their line, of the first guidance alone.
    """

    def __init__(self, judge: Judge, inputs: Inputs, start: Start = in_silence) -> None:
        self.judge = judge
        self.inputs = inputs
        self.start = start
        self.lines: list[Line] = []
        self.shown: dict[str, Tensor] = {}

    def compare(
        self, teacher: Teacher, steps: Sequence[int], students: Sequence[StudentSampler]
    ) -> None:
        """Add the teacher at numbers of steps, the last of which is the truth, and the students.

        Args:
            teacher: of the students.
            steps: of Heun's rule; of a further guidance the last one alone is shown.
            students: at one guidance.
        """
        gamma = students[0].guidance
        ways = {
            f"teacher, {Jumps(k).name}": TeacherSampler(teacher, "heun", k, gamma) for k in steps
        }
        names = list(ways) if not self.lines else list(ways)[-1:]
        samples = {name: self._draw(name, ways[name]) for name in names}
        truth = samples[names[-1]].x
        for name, drawn in samples.items():
            self._add(name, ways[name], drawn, truth)
        for student in students:
            drawn = self._draw(student.name, student)
            self._add(student.name, student, drawn, truth)

    def _draw(self, name: str, sampler: Sampler) -> Drawn:
        advance = self.start(f"{name}, guidance {sampler.guidance:g}", len(self.inputs.z))
        return drawn_from(self.inputs, sampler, advance)

    def _add(self, name: str, sampler: Sampler, drawn: Drawn, truth: Tensor) -> None:
        seen = pictures(sampler.teacher, drawn.x, batch_size=BATCH)
        line = Line(
            name,
            sampler.guidance,
            sampler.evaluations,
            self.judge.fid(seen),
            float(relative_error(drawn.x, truth).mean()),
            self.judge.accuracy(seen, self.inputs.labels, sampler.teacher.num_classes),
            drawn.milliseconds,
        )
        self.lines.append(line)
        if line.guidance == self.lines[0].guidance:
            self.shown[name] = drawn.x


def without_foreign_classes(lines: Sequence[Line], num_classes: int) -> list[Line]:
    """Return the lines, without the shares recognised where the classifier does not know the
    teacher's classes: it recognises too few samples of the teacher at most steps.

    Args:
        lines: the teacher's among them.
        num_classes: of the teacher.
    """
    teacher = max((x for x in lines if x.name.startswith("teacher")), key=lambda x: x.evaluations)
    if teacher.accuracy is None or knows_classes(teacher.accuracy, num_classes):
        return list(lines)
    return [line._replace(accuracy=None) for line in lines]


def compare_halves(judge: Judge, reference: Reference) -> float | None:
    """FID between two random halves of the real pictures: what sampling noise alone costs at half
    the count; None where the reference is the teacher.
    """
    if reference not in REAL:
        return None
    real = REAL[reference]().to(judge.device)
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    half = FrechetDistance(judge.features).to(judge.device)
    add_samples(half, real[order[: len(real) // 2]], real=True)
    add_samples(half, real[order[len(real) // 2 :]], real=False)
    return float(half.compute())
