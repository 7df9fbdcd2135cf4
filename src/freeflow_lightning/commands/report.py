"""freeflow report: a run's student beside its teacher at 1, 2, 4, 8 and 64 steps, same noise:
figures, pictures, curves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from freeflow_lightning.commands.options import DeviceOptions, TeacherOptions
from freeflow_lightning.commands.run import Options
from freeflow_lightning.commands.run import run as run_verb
from freeflow_lightning.commands.views.report import PICTURES, draw_pictures, table, text
from freeflow_lightning.evaluation.pick_features import Name
from freeflow_lightning.evaluation.steps_table import (
    STEPS,
    Inputs,
    Judge,
    Reference,
    StepsTable,
    features_for,
    halves,
    reference_samples,
)
from freeflow_lightning.evaluation.trajectory_errors import measure_along_delta
from freeflow_lightning.flow import take
from freeflow_lightning.flow.pairs import SamplerName
from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.sampling.draw import labels_of
from freeflow_lightning.sampling.jumps import SIDE_BY_SIDE
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import open_student, pick_device
from freeflow_lightning.students.student_sampler import StudentSampler
from freeflow_lightning.training.output_folder import claim_names, publish
from freeflow_lightning.training.run_folder import newest
from freeflow_lightning.training.training_checkpoint import find_checkpoint

NOTE, PAGE = "report.json", "report.md"


@dataclass(frozen=True, kw_only=True)
class StepsOptions(Options):
    """the student's steps

    Args:
        steps: numbers of evaluations of the student per sample; if not given, 1, 2, 4 and 8 of a
            student that was trained for them, 1 of another.
        sampler: how more than one are joined: chain, renoise or gamma, as in `freeflow sample`; if
            not given, the first of these that the student was trained for.
        noise_share: of the sampler gamma: how much of each step is noised anew, from 0 to 1.
    """

    steps: list[int] | None = None
    sampler: SamplerName | None = None
    noise_share: float | None = None

    def samplers(self, student: FlowMap, guidance: float) -> list[StudentSampler]:
        """The student at a guidance, at each number of steps, ascending."""
        known = student.pairs.samplers
        steps = sorted(set(self.steps or (SIDE_BY_SIDE if known else (1,))))
        sampler = self.sampler or (known[0] if known else "chain")
        return [StudentSampler(student, guidance, k, sampler, self.noise_share) for k in steps]


def report(
    run: str,
    reference: Reference = "teacher",
    num_samples: int = 1797,
    guidance: list[float] | None = None,
    features: Name | FeatureNetwork | None = None,
    weights: str | None = None,
    seed: int = 3,
    *,
    way: StepsOptions = StepsOptions(),
    beside: TeacherOptions,
    where: DeviceOptions,
) -> None:
    """Write report.md, its pictures and report.json, which lists them, into a run's folder.

    Args:
        run: folder of a run, runs/NAME/version_N, or runs/NAME for its newest.
        reference: what FID compares with: samples of the teacher (64 Heun steps, other noise) or
            real pictures, faces that ship with the package or scikit-learn's digits.
        num_samples: samples per sampler; the same noise for all.
        guidance: guidance scales to compare; the lowest of the student's range and the middle if
            not given.
        features: network that FID sees samples with, as in `freeflow evaluate`; if not given, that
            of the real pictures, and auto with reference teacher.
        weights: the file of Inception's or DINOv2's weights.
        seed: seed of the noise.
        way: the student's steps.
        beside: what takes the place of the checkpoint's own.
        where: the device.
    """
    folder = newest(Path(run))
    claim_names(folder, NOTE, "report", [PAGE, *PICTURES])
    student = open_student(find_checkpoint(folder), overrides=beside.overrides)
    student = student.to(pick_device(where.device))
    low, high = student.guidance_range
    scales = sorted(set(guidance or [low, (low + high) / 2]))
    students = [way.samplers(student, gamma) for gamma in scales]
    inputs = draw_inputs(student, num_samples, seed)
    seen_by = features_for(student, reference, features, weights)
    judge = Judge(reference_samples(student, reference, num_samples, low, seed), seen_by)
    made = StepsTable(judge, inputs)
    for samplers in students:
        made.compare(student.teacher, STEPS, samplers)
    numbers: dict[str, Any] = {"reference": reference, "samples": num_samples, "seed": seed}
    numbers["floor"] = halves(judge, reference)
    publish_report(folder, student, made, numbers, scales)


def draw_inputs(student: FlowMap, count: int, seed: int) -> Inputs:
    """The noise that every sampler draws from."""
    z, condition = student.teacher.draw_indexed(
        torch.arange(count), seed=seed, stream="report", device=student.device
    )
    return Inputs(z, condition, labels_of(student.teacher, condition))


def publish_report(
    folder: Path,
    student: FlowMap,
    made: StepsTable,
    numbers: dict[str, Any],
    scales: Sequence[float],
) -> None:
    """Draw the pictures, print the table, and publish it all into the run's folder."""
    z, condition, labels = made.inputs
    paths = measure_along_delta(student, z[:256], take(condition, slice(256)), scales[0])._asdict()
    paths["error"] = paths.pop("errors").mean(1)
    names = made.judge.features.class_names
    drawn = draw_pictures(folder, student, made.shown, labels, paths, names)
    page = text(
        folder, made.lines, list(drawn), numbers["reference"], numbers["floor"], numbers["samples"]
    )
    numbers["samplers"] = [line._asdict() for line in made.lines]
    print("\n".join(table(made.lines)))
    publish(folder, NOTE, "report", numbers, drawn | {PAGE: page.encode()})
    print(f"written: {folder / PAGE}")


main = partial(run_verb, report)
