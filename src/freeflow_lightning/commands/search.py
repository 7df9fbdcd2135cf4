"""freeflow search: the best of many noises by the student and a verifier, then the teacher from that
noise.
"""

import inspect
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

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
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.commands.views.search import report_of, rows_of, show_search
from freeflow_lightning.sampling.draw import Draw, draws_pictures, labels_of, pictures
from freeflow_lightning.sampling.draw_into import share_of
from freeflow_lightning.sampling.hashes import weights_hash
from freeflow_lightning.sampling.processes import Processes, joined, start, starts_others
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.students.search.folder import SearchFolder
from freeflow_lightning.students.search.noise_search import NoiseSearch
from freeflow_lightning.teachers import LatentSpace
from freeflow_lightning.training.output_folder import lock_folder

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
    final.check_steps()
    how.build()  # refuses options without effect before anything is opened
    if starts_others(work.devices):
        start(work.devices)
        return
    with joined() as processes:
        student = opening.open(beside.overrides).to(pick_device(work.device, processes))
        guidance = student.evaluation_guidance if guidance is None else guidance
        refuse_missing_teacher(student, opening.checkpoint, how, final)
        which = noise.draw(student.teacher)
        setting = final.search_of(student, guidance, how, way.jumps, work)
        rows = rows_of(setting, how.algorithm, how.candidates, compare)
        facts = search_facts(setting, how.algorithm, which)
        flat = not draws_pictures(student.teacher, student.device)
        folder = SearchFolder(Path(output), num_samples, facts, rows, npz=files.npz or flat)
        with lock_folder(folder.path, "search") if processes.first else nullcontext():
            if processes.first:
                folder.open(overwrite=files.overwrite)
            search_parts(folder, setting, which, compare, processes)
            if processes.first:
                finish(folder, num_samples)


def refuse_missing_teacher(
    student: FlowMap, checkpoint: str, how: AlgorithmOptions, final: FinalOptions
) -> None:
    """Raise a ValueError where a teacher is asked for that a student does not hold."""
    asked = final.teacher_steps or how.algorithm == "paths"
    if isinstance(student.teacher, LatentSpace) and asked:
        raise ValueError(
            f"{checkpoint} holds no teacher: add --teacher_steps 0 (and no paths), to keep the "
            f"student's samples"
        )


def search_parts(
    folder: SearchFolder, setting: NoiseSearch, which: Draw, compare: bool, processes: Processes
) -> None:
    """Search for the samples of this process's parts, under a progress bar, and wait for others."""
    mine = share_of(folder, processes)
    with progress_bar(processes.first) as bar:
        total = sum(len(folder.indices(part)) for part in mine)
        task = bar.add_task("searching", total=total)
        for part in mine:
            search_part(folder, part, setting, which, compare)
            bar.advance(task, len(folder.indices(part)))
    processes.barrier()


def finish(folder: SearchFolder, num_samples: int) -> None:
    """Write search.json and its picture, and say it."""
    report = report_of(folder.records(), num_samples)
    folder.finish(report)
    show_search(report, folder.titles, num_samples)
    print(f"written: {folder.path / 'search.json'}, search.png and the samples beside it")


def search_facts(setting: NoiseSearch, algorithm: str, which: Draw) -> dict[str, Any]:
    """Return all that the samples depend on, as JSON."""
    teacher, verifier = setting.student.teacher, setting.verifier
    named = verifier if inspect.isroutine(verifier) else type(verifier)
    facts: dict[str, Any] = {
        "student": weights_hash(setting.student.network)[:16],
        "teacher": weights_hash(teacher)[:16],
        "decoder": f"{type(teacher).__name__}.decode",
        "sample shape": list(teacher.sample_shape),
        "verifier": f"{named.__module__}.{named.__qualname__}",
    }
    if isinstance(verifier, nn.Module):
        facts["verifier's weights"] = weights_hash(verifier)[:16]
    facts |= {"algorithm": algorithm, **vars(setting.algorithm)}
    if algorithm == "paths":
        facts["path_steps"] = setting.path_steps
    facts |= {"teacher sampler": setting.sampler.settings(), **which.facts()}
    return facts | setting.jumps.facts()


def search_part(
    folder: SearchFolder, part: int, setting: NoiseSearch, which: Draw, compare: bool
) -> None:
    """Search for the samples of a part and write them with their scores."""
    index, teacher = folder.indices(part), setting.student.teacher
    done = setting(which, index)
    drawn = {"student": done.found.seen, "searched": done.final}
    labels = labels_of(teacher, done.condition)
    scores = {"student": done.found.score, "searched": done.score}
    record: dict[str, Any] = {
        "search": asdict(done.search),
        "handed_over": asdict(done.handed_over),
    }
    record |= {
        "used": asdict(done.used),
        "verified": done.verified,
        "labels": [] if labels is None else labels.tolist(),
    }
    if compare:
        plain = setting.unsearched(which, index)
        drawn |= {"student_unsearched": plain.student, "unsearched": plain.teacher}
        scores |= {"student_unsearched": plain.student_score, "unsearched": plain.teacher_score}
        record |= {"compared": asdict(plain.per_sample), "used_compared": asdict(plain.used)}
    record |= {row: scores[row].tolist() for row in folder.folders}
    seen = {
        row: pictures(teacher, drawn[row], batch_size=setting.decode_batch_size)
        for row in folder.folders
    }
    folder.write(part, seen, labels, record)


main = partial(run, search, short_names=OWN_VERIFIERS)
