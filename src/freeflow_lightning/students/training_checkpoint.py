"""The student of a training checkpoint, and its auxiliary network."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.students.student import Student
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.meta_init import materialize
from freeflow_lightning.training.rebuild import build_recipe, load_weights
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
    module = build_module(
        checkpoint, teacher=teacher, network=network, trust=trust, auxiliary=False
    )
    chosen, weights = choose_weights(checkpoint, average, ema_length)
    load_weights(module.student, weights, f"the weights of {checkpoint.path}")
    about = {
        "average": chosen,
        "averages": checkpoint.averages,
        "steps": checkpoint.content.get("global_step"),
        "evaluation_guidance": module.evaluation_guidance,
        "config": checkpoint.config,
        "pairs": module.pairs.value,
        "starts": module.starts,
        "curves": module.curves,
    }
    return Student(module.student, module.teacher, module.guidance_range, about)


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
    chosen = average or (names[0] if names else "raw")
    if chosen != "raw" and chosen not in names:
        raise ValueError(
            f"{checkpoint.path} has no average {chosen!r}: expected one of {[*names, 'raw']}"
        )
    prefix = "student." if chosen == "raw" else f"averages.{chosen}."
    return chosen, checkpoint.weights(prefix)


def build_module(
    checkpoint: TrainingCheckpoint,
    *,
    teacher: Teacher | None = None,
    network: nn.Module | None = None,
    trust: str | Sequence[str] | None = None,
    auxiliary: bool = True,
) -> Distillation:
    """Return the module that a checkpoint belongs to, without its weights, and without an auxiliary
    network if none is wanted.

    Raises:
        ValueError: as `build_recipe`, or a recipe that has no flow map.
    """
    given: dict[str, Any] = {"teacher": teacher, "network": network}
    given = {name: value for name, value in given.items() if value is not None}

    def unused(kind: type[Recipe], arguments: Mapping[str, Any]) -> dict[str, Any]:
        if not issubclass(kind, Distillation):
            return {}
        return kind.unused_in_sampling(arguments, auxiliary=auxiliary)

    module = build_recipe(checkpoint, Recipe, given, trust, unused=unused)
    if not isinstance(module, Distillation):
        raise ValueError(
            f"{checkpoint.path} is a checkpoint of {type(module).__name__}, which has no flow "
            f"map: expected a Distillation"
        )
    materialize(module, module.meta_weights())
    return module


def read_auxiliary(
    path: str | Path,
    teacher: Teacher | None = None,
    network: nn.Module | None = None,
    trust: str | Sequence[str] | None = None,
) -> tuple[Distillation, nn.Module] | None:
    """Return the module of a training checkpoint and its auxiliary network G; None where the
    checkpoint holds none.

    Raises:
        ValueError: weights that do not fit the checkpoint's config.
    """
    checkpoint = open_checkpoint(path)
    weights = checkpoint.weights("auxiliary.")
    if not weights:
        return None
    module = build_module(checkpoint, teacher=teacher, network=network, trust=trust)
    if module.auxiliary is None:
        raise ValueError(
            f"{path} holds an auxiliary network that its config does not have "
            f"(correction_fraction 0)"
        )
    load_weights(module.auxiliary, weights, f"the weights of the auxiliary network in {path}")
    return module, module.auxiliary.eval()
