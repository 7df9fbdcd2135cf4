"""A sheet of a student's samples, for the folder that it is exported to."""

from pathlib import Path

import torch

from freeflow_lightning.metrics.class_names import class_names
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.sampling.jumps import ONE_STEP, Jumps
from freeflow_lightning.sampling.sample_files import save_sheet
from freeflow_lightning.students.student_map import StudentMap


def draw_samples(
    student: StudentMap,
    path: Path,
    guidance: float | None = None,
    n: int = 16,
    jumps: Jumps = ONE_STEP,
) -> str:
    """Write a sheet of samples, the class above each; return why there is none where they cannot be
    drawn, or "".

    Args:
        student: draws them.
        path: of the picture.
        guidance: gamma; that of the run's validation if not given.
        n: how many.
        jumps: the steps of each sample.
    """
    gamma = student.evaluation_guidance if guidance is None else guidance
    teacher = student.teacher
    labels = None
    if teacher.num_classes:
        _, labels = teacher.draw_indexed(torch.arange(n), seed=0, stream="samples")
    try:
        samples = student.sample(
            n,
            labels,
            guidance=gamma,
            steps=jumps.steps,
            sampler=jumps.sampler,
            noise_share=jumps.noise_share,
        )
        drawn = pictures(teacher, samples, batch_size=4)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    if drawn.ndim != 4:
        return f"samples of shape {list(drawn.shape[1:])} are no pictures"
    captions = None
    if labels is not None:
        names = dict(enumerate(class_names(drawn.shape[1:], teacher.num_classes)))
        captions = [names.get(k, str(k)).replace(", ", "\n") for k in labels.tolist()]
    save_sheet(drawn, path, captions)
    return ""
