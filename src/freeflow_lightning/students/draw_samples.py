"""A sheet of a student's samples, for the folder that it is exported to."""

from pathlib import Path

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
    """Write a sheet of samples; return why there is none where they cannot be drawn, or "".

    Args:
        student: draws them.
        path: of the picture.
        guidance: gamma; that of the run's validation if not given.
        n: how many.
        jumps: the steps of each sample.
    """
    gamma = student.evaluation_guidance if guidance is None else guidance
    try:
        samples = student.sample(
            n,
            guidance=gamma,
            steps=jumps.steps,
            sampler=jumps.sampler,
            noise_share=jumps.noise_share,
        )
        drawn = pictures(student.teacher, samples, batch_size=4)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    if drawn.ndim != 4:
        return f"samples of shape {list(drawn.shape[1:])} are no pictures"
    save_sheet(drawn, path)
    return ""
