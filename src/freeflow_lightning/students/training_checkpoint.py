"""The student of a training checkpoint."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from freeflow_lightning.nets.load_weights import load_weights
from freeflow_lightning.students.student import Student
from freeflow_lightning.students.student_parts import StudentParts
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.rebuild import build_part
from freeflow_lightning.training.snapshots import length_name, make_average
from freeflow_lightning.training.training_checkpoint import TrainingCheckpoint, open_checkpoint

COARSE = 0.05
"""Distance from an average's profile beyond which too few snapshots are warned of."""


def read_training_checkpoint(
    path: str | Path,
    *,
    average: str | None = None,
    ema_length: float | None = None,
    teacher: Teacher | None = None,
    network: nn.Module | None = None,
    trust: str | Sequence[str] | None = None,
) -> Student:
    """Read a student from a training checkpoint; the arguments are those of
    `FlowMap.from_checkpoint`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of a student, an unknown average, or something that it cannot
            say.
    """
    checkpoint = open_checkpoint(path)
    for part, kind in ((teacher, Teacher), (network, nn.Module)):
        if part is not None and not isinstance(part, kind):
            raise ValueError(f"expected a {kind.__name__}, got {part!r:.60}: construct it first")
    given = {"teacher": teacher, "network": network}
    given = {name: value for name, value in given.items() if value is not None}
    student = build_student(checkpoint, given, trust)
    chosen, weights = choose_weights(checkpoint, average, ema_length)
    misfit = f"the weights of {checkpoint.path} do not fit its config"
    load_weights(student.network, weights, misfit)
    about = {
        "average": chosen,
        "averages": checkpoint.averages,
        "steps": checkpoint.content.get("global_step"),
        "config": checkpoint.config,
        **student.about,
    }
    return student._replace(about=about)


def build_student(
    checkpoint: TrainingCheckpoint,
    given: Mapping[str, Any],
    trust: str | Sequence[str] | None,
) -> Student:
    """Return the student of a checkpoint without its weights.

    A recipe of one's own is asked for its networks, and so is one whose arguments have to be looked
    at: those of another version, with defaults, or changed since they were written.
    """
    config, facts = checkpoint.config, checkpoint.about.get("map")
    says_all = config is not None and StudentParts.are_said(config)
    made: Any
    if facts is not None and says_all and checkpoint.is_as_written:
        made = build_part(checkpoint, StudentParts, given, trust)
    else:
        from freeflow_lightning.students.training_module import build_module  # noqa: PLC0415 (a recipe is a LightningModule: seconds that others do without)

        made = build_module(checkpoint, given, trust, auxiliary=False)
        facts = made.map_facts()
    about = {"evaluation_guidance": made.evaluation_guidance, **facts}
    return Student(made.student, made.teacher, made.guidance_range, about)


def choose_weights(
    checkpoint: TrainingCheckpoint, average: str | None, ema_length: float | None
) -> tuple[str, dict[str, Tensor]]:
    """Return the name and the weights of a student: an average that the checkpoint holds, the raw
    network, or an average of a length that is made of the run's snapshots.

    Raises:
        ValueError: an average that there is not, or an average and a length.
    """
    if ema_length is not None:
        if average is not None:
            raise ValueError("--average names one average and --ema_length another: leave one out")
        made = make_average(checkpoint, ema_length)
        if made.error > COARSE:
            warnings.warn(
                f"an average of length {ema_length} is made of {made.snapshots} snapshots, whose "
                f"profiles miss its own by {made.error:.0%}: take snapshots more often",
                stacklevel=4,
            )
        return length_name(ema_length), made.weights
    names = checkpoint.averages
    chosen = (names or ["raw"])[0] if average is None else average
    if chosen != "raw" and chosen not in names:
        raise ValueError(
            f"{checkpoint.path} has no average {chosen!r}: expected one of {[*names, 'raw']}"
        )
    prefix = "student." if chosen == "raw" else f"averages.{chosen}."
    return chosen, checkpoint.weights(prefix)
