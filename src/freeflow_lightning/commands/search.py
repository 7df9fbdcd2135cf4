"""freeflow search: the best of many noises by the student and a verifier, then the teacher from that
noise.
"""

from functools import partial
from pathlib import Path

from freeflow_lightning.commands.options import (
    FolderOptions,
    JumpOptions,
    NoiseOptions,
    StudentOptions,
    TeacherOptions,
    WorkOptions,
)
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.search_options import AlgorithmOptions, FinalOptions
from freeflow_lightning.commands.start_processes import start, starts_others
from freeflow_lightning.commands.tasks.search import search as find
from freeflow_lightning.sampling.processes import join_processes
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.students.search.folder import NOTE, PICTURE

OWN_VERIFIERS = {
    name: f"freeflow_lightning.students.search.{name}" for name in ("ClassScore", "TargetDistance")
}


def search(
    opening: StudentOptions,
    guidance: float | None = None,
    num_samples: int = 64,
    output: str = "search",
    compare: bool = True,
    *,
    how: AlgorithmOptions,
    final: FinalOptions,
    way: JumpOptions,
    noise: NoiseOptions,
    beside: TeacherOptions,
    files: FolderOptions,
    work: WorkOptions,
) -> None:
    """Search for better noise with the student, then let the teacher draw from it (inference-time
    scaling).

    For each sample the student tries many noises, at one network evaluation (NFE) each, or --steps;
    a verifier scores what comes out; the best noise goes to the teacher. Writes folders of pictures
    (searched, student, and both unsearched), search.png, which shows them side by side, and
    search.json with scores and NFE. Sample i depends on the seed and i alone. Run it again after an
    interruption: it goes on. Under torchrun, or with --devices, the processes share the work.

    Args:
        opening: the student; one that holds no teacher wants --teacher_steps 0.
        guidance: guidance scale of student and teacher; the run's evaluation_guidance if not given.
        num_samples: samples to search for.
        output: folder to write to; made if it does not exist.
        compare: draw the unsearched samples too; their evaluations are reported apart.
        how: the algorithm.
        final: the verifier and the teacher.
        way: the student's steps.
        noise: all noise and the classes; unsearched samples are those of `freeflow sample`.
        beside: what takes the place of the checkpoint's own.
        files: how the folders are written.
        work: where it runs, and how much at once.
    """
    work.check_counts(num_samples)
    if starts_others(work.devices):
        start(work.devices)
        return
    with join_processes() as processes:
        student = opening.open(beside.overrides).to(pick_device(work.device, processes))
        made = find(
            student,
            guidance=guidance,
            num_samples=num_samples,
            compare=compare,
            **vars(how),
            **vars(final),
            **vars(way),
            **vars(noise),
            **vars(files),
            **work.sizes,
            output=output,
            checkpoint=opening.checkpoint,
            processes=processes,
        )
        if processes.first:
            made.show()
            print(f"written: {Path(output) / NOTE}, {PICTURE} and the samples beside it")


main = partial(run, search, short_names=OWN_VERIFIERS)
