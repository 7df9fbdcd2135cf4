"""freeflow search: the best of many noises by the one-step student and a verifier, then the teacher
from that noise.
"""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from freeflow_lightning.commands.options import (
    FolderOptions,
    NoiseOptions,
    Rule,
    StudentOptions,
    TeacherOptions,
    WorkOptions,
)
from freeflow_lightning.commands.run import run
from freeflow_lightning.commands.views.progress import progress_bar
from freeflow_lightning.commands.views.search import show
from freeflow_lightning.sampling.draw import Draw, draws_pictures, labels_of, pictures
from freeflow_lightning.sampling.draw_into import share_of
from freeflow_lightning.sampling.hashes import weights_hash
from freeflow_lightning.sampling.processes import joined, start, starts_others
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.students.open_student import pick_device
from freeflow_lightning.students.search import ALGORITHMS, Algorithm, ClassScore, Verifier
from freeflow_lightning.students.search.folder import SearchFolder, concat_states
from freeflow_lightning.students.search.noise_search import Evaluations, NoiseSearch, freeze
from freeflow_lightning.teachers import LatentSpace
from freeflow_lightning.training.output_folder import lock_folder

OWN_VERIFIERS = {
    name: f"freeflow_lightning.students.search.{name}" for name in ("ClassScore", "TargetDistance")
}


def search(
    opening: StudentOptions,
    verifier: Callable | None = None,
    candidates: int = 64,
    algorithm: Literal["random", "zero_order", "paths"] = "random",
    teacher_steps: int = 16,
    teacher_method: Rule = "heun",
    guidance: float | None = None,
    num_samples: int = 64,
    output: str = "search",
    compare: bool = True,
    neighbours: int | None = None,
    radius: float | None = None,
    paths: int | None = None,
    branches: int | None = None,
    start_time: float | None = None,
    forward: float | None = None,
    backward: float | None = None,
    path_steps: int | None = None,
    *,
    noise: NoiseOptions,
    beside: TeacherOptions,
    files: FolderOptions,
    work: WorkOptions,
) -> None:
    """Search for better noise with the one-step student, then let the teacher draw from it
    (inference-time scaling).

    For each sample the student tries many noises, at one network evaluation (NFE) each; a verifier
    scores what comes out; the best noise goes to the teacher. Writes folders of pictures (searched,
    student, and both unsearched), search.png, which shows them side by side, and search.json with
    scores and NFE. Sample i depends on the seed and i alone. Run it again after an interruption: it
    goes on. Under torchrun, or with --devices, the processes share the work.

    Args:
        opening: the student; one that holds no teacher wants --teacher_steps 0.
        verifier: what scores samples: ClassScore (a classifier's log probability of the class asked
            for), TargetDistance, or the import path of your own function or class, called as
            verifier(samples, condition) -> scores [B], higher is better; samples are uint8 pictures
            [B, C, H, W]. Options as --verifier.NAME. ClassScore for the digits if not given.
        candidates: noises per sample that the student tries.
        algorithm: random (best of N), zero_order (climb from one noise to better ones around it) or
            paths (the teacher's paths branch on their way, the best go on: this takes evaluations
            of the teacher during the search).
        teacher_steps: the teacher's steps for the final sample; 0 keeps the student's.
        teacher_method: the teacher's one-step rule.
        guidance: guidance scale of student and teacher; the run's evaluation_guidance if not given.
        num_samples: samples to search for.
        output: folder to write to; made if it does not exist.
        compare: draw the unsearched samples too; their evaluations are reported apart.
        neighbours: of zero_order: noises tried around the pivot in one round; 4 if not given.
        radius: of zero_order: size of the neighbourhood, above 0 (the pivot) to 1 (any noise); 0.4
            if not given.
        paths: of paths: paths that are kept in each round; 2 if not given.
        branches: of paths: branches of each path; 2 if not given.
        start_time: of paths: time of the first branching, between 1 (noise) and 0; 0.5 if not
            given.
        forward: of paths: time that a branch is noised up by; 0.25 if not given.
        backward: of paths: time that the teacher leads it back by; 0.5 if not given.
        path_steps: of paths: the teacher's steps from time 1 to 0 during the search; 8 if not
            given.
        noise: all noise and the classes; unsearched samples are those of `freeflow sample`.
        beside: what takes the place of the checkpoint's own.
        files: how the folders are written.
        work: where it runs, and how much at once.
    """
    work.check_counts(num_samples)
    if teacher_steps < 0:
        raise ValueError(
            f"expected no negative steps, got --teacher_steps {teacher_steps}: 0 keeps the "
            f"student's samples"
        )
    options = {"neighbours": neighbours, "radius": radius, "paths": paths, "branches": branches}
    options |= {"start": start_time, "forward": forward, "backward": backward}
    chosen = pick_algorithm(algorithm, candidates, options, path_steps)
    if starts_others(work.devices):
        start(work.devices)
        return
    with joined() as processes:
        student = opening.open(beside.overrides).to(pick_device(work.device, processes))
        if isinstance(student.teacher, LatentSpace) and (teacher_steps or algorithm == "paths"):
            raise ValueError(
                f"{opening.checkpoint} holds no teacher: add --teacher_steps 0 (and no paths), to "
                f"keep the student's samples"
            )
        guidance = student.evaluation_guidance if guidance is None else guidance
        student.check_guidance(guidance)
        which = noise.draw(student.teacher)
        judge = freeze(pick_verifier(verifier, student), student.device)
        sampler = TeacherSampler(student.teacher, teacher_method, teacher_steps, guidance)
        setting = NoiseSearch(
            student,
            judge,
            chosen,
            sampler,
            path_steps or 8,
            work.batch_size,
            work.decode_batch_size,
        )
        flat = not draws_pictures(student.teacher, student.device)
        facts = facts_of(setting, algorithm, judge, which)
        folder = SearchFolder(
            Path(output),
            num_samples,
            facts,
            rows_of(candidates, algorithm, teacher_steps, compare),
            npz=files.npz or flat,
        )
        with lock_folder(folder.path, "search") if processes.first else nullcontext():
            if processes.first:
                folder.open(overwrite=files.overwrite)
            mine = share_of(folder, processes)
            with progress_bar(processes.first) as bar:
                task = bar.add_task(
                    "searching", total=sum(len(folder.indices(part)) for part in mine)
                )
                for part in mine:
                    search_part(folder, part, setting, which, compare)
                    bar.advance(task, len(folder.indices(part)))
            processes.barrier()
            if processes.first:
                report = report_of(folder.records(), num_samples)
                folder.finish(report)
        if processes.first:
            show(report, folder.titles, num_samples)
            print(f"written: {folder.path / 'search.json'}, search.png and the samples beside it")


def pick_algorithm(
    name: str, candidates: int, options: dict[str, Any], path_steps: int | None
) -> Algorithm:
    """The named algorithm (Raises: ValueError for options that it does not have)."""
    known = inspect.signature(ALGORITHMS[name]).parameters
    given = {option: value for option, value in options.items() if value is not None}
    stray = [option for option in given if option not in known] + ["path_steps"] * (
        path_steps is not None and name != "paths"
    )
    if stray:
        flags = ", ".join(
            "--start_time" if option == "start" else f"--{option}" for option in stray
        )
        raise ValueError(
            f"{flags} has no effect on --algorithm {name}: leave it out, or choose the algorithm "
            f"that has it"
        )
    if path_steps is not None and path_steps < 1:
        raise ValueError(f"expected --path_steps of at least 1, got {path_steps}")
    return ALGORITHMS[name](candidates=candidates, **given)


def pick_verifier(verifier: Verifier | None, student: FlowMap) -> Verifier:
    """The given one, or the digits' classifier for digits (Raises: ValueError for others without
    one).
    """
    if verifier is not None:
        return verifier
    if student.teacher.sample_shape != (1, 8, 8) or student.teacher.num_classes != 10:
        raise ValueError(
            "say what a good sample is: --verifier my_file.MyVerifier (a function or class, "
            "called as verifier(samples, condition) -> scores), --verifier TargetDistance "
            "--verifier.target FILE, or ClassScore with a classifier of yours"
        )
    return ClassScore()


def rows_of(candidates: int, algorithm: str, teacher_steps: int, compare: bool) -> dict[str, str]:
    """The folders of samples and what they hold."""
    on_paths = algorithm == "paths"
    rows = {"student_unsearched": "student"} if compare else {}
    rows["student"] = "best path, as scored" if on_paths else f"student, best of {candidates}"
    if teacher_steps:
        rows |= {"unsearched": f"teacher, {teacher_steps} steps"} if compare else {}
        rows["searched"] = "teacher, best path" if on_paths else "teacher, best noise"
    return rows


def facts_of(
    setting: NoiseSearch, algorithm: str, verifier: Verifier, which: Draw
) -> dict[str, Any]:
    """All that the samples depend on, as JSON."""
    named = verifier if inspect.isroutine(verifier) else type(verifier)
    judge = {"verifier": f"{named.__module__}.{named.__qualname__}"}
    teacher = setting.student.teacher
    return {
        "student": weights_hash(setting.student.network)[:16],
        "teacher": weights_hash(teacher)[:16],
        "decoder": f"{type(teacher).__name__}.decode",
        "sample shape": list(teacher.sample_shape),
        **(
            judge | {"verifier's weights": weights_hash(verifier)[:16]}
            if isinstance(verifier, nn.Module)
            else judge
        ),
        "algorithm": algorithm,
        **vars(setting.algorithm),
        **({"path_steps": setting.path_steps} if algorithm == "paths" else {}),
        "teacher sampler": setting.sampler.settings(),
        **which.facts(),
    }


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


def report_of(records: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """search.json: evaluations of one sample and of all, mean scores, scores by sample."""
    one = records[0]
    rows = [
        row for row in ("student_unsearched", "student", "unsearched", "searched") if row in one
    ]
    scores = {row: concat_states(records, row) for row in rows}
    sums = {
        key: _total([record[key] for record in records])
        for key in ("used", "used_compared")
        if key in one
    }
    per_sample = {key: one[key] for key in ("search", "handed_over")}
    nfe = {
        "per sample": per_sample
        | {"total": sum(sum(part.values()) for part in per_sample.values())},
        "all samples": {key: asdict(value) | {"total": value.total} for key, value in sums.items()},
        "verifier, per sample": one["verified"],
        "what counts": "one sample through one network once is 1; a guided velocity is 2; the student is 1. 'all samples' is "
        "what the networks were given, rows included that fill a batch up to a multiple of 8",
    }
    if "compared" in one:
        nfe["unsearched, per sample"] = one["compared"]
    return {
        "samples": count,
        "nfe": nfe,
        "mean score": {row: float(values.double().mean()) for row, values in scores.items()},
        "scores": {row: values.tolist() for row, values in scores.items()},
        "labels": concat_states(records, "labels").tolist(),
    }


def _total(parts: list[dict[str, int]]) -> Evaluations:
    return sum((Evaluations(**part) for part in parts), Evaluations())


main = partial(run, search, short_names=OWN_VERIFIERS)
