"""freeflow report: a run's student beside its teacher at 1, 2, 4, 8 and 64 steps, same noise:
figures, pictures, curves.
"""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from freeflow_lightning.commands.options import DeviceOptions, TeacherOptions
from freeflow_lightning.commands.run import run as run_verb
from freeflow_lightning.commands.views.report import PICTURES, draw_pictures, table, text
from freeflow_lightning.evaluation.pick_features import Name
from freeflow_lightning.evaluation.steps_table import (
    STEPS,
    Judge,
    features_for,
    halves,
    judged,
    reference_samples,
    timed,
)
from freeflow_lightning.evaluation.trajectory_errors import measure_along_delta
from freeflow_lightning.flow import take
from freeflow_lightning.metrics import FeatureNetwork
from freeflow_lightning.sampling.draw import labels_of
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.open_student import open_student, pick_device
from freeflow_lightning.students.student_sampler import StudentSampler
from freeflow_lightning.training.output_folder import claim_names, publish
from freeflow_lightning.training.run_folder import newest
from freeflow_lightning.training.training_checkpoint import find_checkpoint

NOTE, PAGE = "report.json", "report.md"


def report(
    run: str,
    reference: Literal["teacher", "digits"] = "teacher",
    num_samples: int = 1797,
    guidance: list[float] | None = None,
    features: Name | FeatureNetwork | None = None,
    weights: str | None = None,
    seed: int = 3,
    *,
    beside: TeacherOptions,
    where: DeviceOptions,
) -> None:
    """Write report.md, its pictures and report.json, which lists them, into a run's folder.

    Args:
        run: folder of a run, runs/NAME/version_N, or runs/NAME for its newest.
        reference: what FID compares with: samples of the teacher (64 Heun steps, other noise) or
            scikit-learn's real digits.
        num_samples: samples per sampler; the same noise for all.
        guidance: guidance scales to compare; the lowest of the student's range and the middle if
            not given.
        features: network that FID sees samples with, as in `freeflow evaluate`; if not given, the
            digits' own with reference digits, the plain numbers of samples of up to 8192 numbers,
            and Inception's above.
        weights: the file of Inception's or DINOv2's weights.
        seed: seed of the noise.
        beside: what takes the place of the checkpoint's own.
        where: the device.
    """
    folder = newest(Path(run))
    claim_names(folder, NOTE, "report", [PAGE, *PICTURES])
    student = open_student(find_checkpoint(folder), overrides=beside.overrides).to(
        pick_device(where.device)
    )
    low, high = student.guidance_range
    scales = sorted(set(guidance or [low, (low + high) / 2]))
    z, condition = student.teacher.draw_indexed(
        torch.arange(num_samples), seed=seed, stream="report", device=student.device
    )
    labels = labels_of(student.teacher, condition)
    seen_by = features_for(student, reference, features, weights)
    judge = Judge(reference_samples(student, reference, num_samples, low, seed), seen_by)

    lines, shown, paths = [], {}, {}
    for gamma in scales:
        truth, spent = timed(TeacherSampler(student.teacher, "heun", 64, gamma), z, condition)
        many = judged("teacher", 64, gamma, truth, truth, spent, judge, student, labels)
        for k in STEPS[:-1] if gamma == scales[0] else ():
            x, t = timed(TeacherSampler(student.teacher, "heun", k, gamma), z, condition)
            lines.append(judged("teacher", k, gamma, x, truth, t, judge, student, labels))
            shown[f"teacher, {k} step{'s' * (k > 1)}"] = x
        x, t = timed(StudentSampler(student, gamma), z, condition)
        lines += [many, judged("student", 1, gamma, x, truth, t, judge, student, labels)]
        if gamma == scales[0]:
            shown |= {"teacher, 64 steps": truth, "student, 1 step": x}
            paths = measure_along_delta(
                student, z[:256], take(condition, slice(256)), gamma
            )._asdict()
            paths["error"] = paths.pop("errors").mean(1)
    drawn = draw_pictures(folder, student, shown, labels, paths)
    floor = halves(judge) if reference == "digits" else None
    page = text(folder, lines, list(drawn), reference, floor, num_samples)
    numbers: dict[str, Any] = {
        "reference": reference,
        "samples": num_samples,
        "seed": seed,
        "floor": floor,
    }
    numbers["samplers"] = [line._asdict() for line in lines]
    print("\n".join(table(lines)))
    publish(folder, NOTE, "report", numbers, drawn | {PAGE: page.encode()})
    print(f"written: {folder / PAGE}")


main = partial(run_verb, report)
