"""What is given beside a checkpoint and takes the place of what its config says, in words."""

import warnings
from collections.abc import Mapping
from typing import Any

from freeflow_lightning.training.record import describe, unknown_parts
from freeflow_lightning.training.training_checkpoint import TrainingCheckpoint


def say_overrides(
    checkpoint: TrainingCheckpoint, arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Warn of every given argument that takes the place of another one in the config."""
    for name, value in given.items():
        recorded, mine = arguments.get(name), describe(value)
        if recorded is None or unknown_parts(recorded) or is_same(recorded, mine):
            continue
        warnings.warn(
            f"{checkpoint.path}: the given {name} {words(mine)} takes the place of "
            f"{words(recorded)}",
            stacklevel=4,
        )


def is_same(recorded: Any, given: Any) -> bool:
    """Return whether two descriptions are of the same thing, whatever path its class was imported
    by.
    """
    if (
        not isinstance(recorded, Mapping)
        or not isinstance(given, Mapping)
        or "class_path" not in recorded
    ):
        return bool(describe(recorded) == given)
    short = (
        str(recorded["class_path"]).rpartition(".")[2],
        str(given.get("class_path")).rpartition(".")[2],
    )
    return short[0] == short[1] and describe(recorded.get("init_args") or {}) == (
        given.get("init_args") or {}
    )


def words(description: Any) -> str:
    """Return a description in one line: the class and its arguments, as far as a line holds
    them.
    """
    if not isinstance(description, Mapping) or "class_path" not in description:
        return repr(description)
    arguments = description.get("init_args") or {}
    inside = ", ".join(
        f"{name}={value!r}"
        for name, value in arguments.items()
        if isinstance(value, str | int | float)
    )
    return f"{description['class_path']}({inside})"
