"""The module that a training checkpoint belongs to, and its auxiliary network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from freeflow_lightning.nets.load_weights import load_weights
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.meta_init import materialize
from freeflow_lightning.training.rebuild import build_recipe
from freeflow_lightning.training.training_checkpoint import TrainingCheckpoint, open_checkpoint


def build_module(
    checkpoint: TrainingCheckpoint,
    given: Mapping[str, Any],
    trust: str | Sequence[str] | None = None,
    *,
    auxiliary: bool = True,
) -> Distillation:
    """Return the module that a checkpoint belongs to, without its weights, and without an auxiliary
    network if none is wanted.

    Raises:
        ValueError: as `build_recipe`, or a recipe that has no flow map.
    """

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
    given = {"teacher": teacher, "network": network}
    given = {name: value for name, value in given.items() if value is not None}
    module = build_module(checkpoint, given, trust)
    if module.auxiliary is None:
        raise ValueError(
            f"{path} holds an auxiliary network that its config does not have "
            f"(correction_fraction 0)"
        )
    misfit = f"the weights of the auxiliary network in {path} do not fit its config"
    load_weights(module.auxiliary, weights, misfit)
    return module, module.auxiliary.eval()
