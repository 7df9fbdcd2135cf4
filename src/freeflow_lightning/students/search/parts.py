"""One part of a search: its samples and scores written, and all that they depend on."""

import inspect
from dataclasses import asdict
from typing import Any

from torch import nn

from freeflow_lightning.sampling.draw import Draw, labels_of, pictures
from freeflow_lightning.sampling.hashes import weights_hash
from freeflow_lightning.students.search.folder import SearchFolder
from freeflow_lightning.students.search.noise_search import NoiseSearch


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
