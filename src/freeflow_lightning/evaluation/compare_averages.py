"""A checkpoint's averages beside each other: distance to the teacher's samples and error at the end
of its paths.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch

from freeflow_lightning.evaluation.pick_features import pick_features
from freeflow_lightning.evaluation.reference import draw_table, teacher_table
from freeflow_lightning.evaluation.resources import Resources
from freeflow_lightning.evaluation.scores import endpoint_errors, evaluate_tables
from freeflow_lightning.metrics import Score
from freeflow_lightning.sampling.draw import Draw
from freeflow_lightning.sampling.jumps import ONE_STEP, Jumps
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.student_sampler import StudentSampler

PAIRS = 256


class AverageRow(NamedTuple):
    """One average's figures; `recognised` is None where nothing recognises the samples."""

    average: str
    fid: Score
    endpoint: Score
    recognised: Score | None


def compare_averages(
    students: Iterable[tuple[str, FlowMap]],
    num_samples: int,
    guidance: float,
    device: torch.device,
    jumps: Jumps = ONE_STEP,
) -> list[AverageRow]:
    """Compare every average of a checkpoint and its raw weights, on the same noise, against the
    teacher's own samples.

    Args:
        students: their names and they themselves, one after the other.
        num_samples: samples on either side; FID depends on how many.
        guidance: of both.
        device: where to compute.
        jumps: the students' steps.
    """
    made: list[AverageRow] = []
    resources = Resources(device=device)
    for name, opened in students:
        student = opened.to(device)
        sampler = StudentSampler(student, guidance, jumps.steps, jumps.sampler, jumps.noise_share)
        truth = TeacherSampler(student.teacher, guidance=guidance)
        network = pick_features("auto", None, student.teacher, device)
        reference = teacher_table(truth, network, count=num_samples, seed=1, resources=resources)
        table = draw_table(
            sampler, network, Draw(), count=num_samples, kept=num_samples, resources=resources
        )
        pairs = min(num_samples, PAIRS)
        errors = endpoint_errors(sampler, truth, Draw(), pairs, resources=resources)
        assert table is not None  # one process
        assert reference is not None
        classifies = network.classifies(student.teacher.num_classes)
        scores = evaluate_tables(table, reference, None, errors, classifies=classifies).scores
        made.append(
            AverageRow(name, scores["fid"], scores["endpoint_error"], scores.get("recognised"))
        )
    return made
