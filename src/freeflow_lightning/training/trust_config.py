"""What the config of a checkpoint may import: this package, and what the user trusts."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freeflow_lightning.teachers.reading.trust import (
    class_paths,
    find_object,
    has_module,
    is_known,
    trusted,
)
from freeflow_lightning.training.own_runs import is_remembered
from freeflow_lightning.training.record import is_importable
from freeflow_lightning.training.training_checkpoint import TrainingCheckpoint


def check_trust(
    checkpoint: TrainingCheckpoint,
    config: dict[str, Any],
    trust: str | Sequence[str] | None,
    given: Mapping[str, Any],
) -> None:
    """Import the classes of a config that the user trusts, and refuse others before anything of
    theirs runs.

    The user trusts what `trust` names, and what a config of theirs has named in a training on this
    machine.

    Raises:
        ValueError: a class that may not be imported, or cannot; a trusted one that the checkpoint
            does not name.
    """
    allowed = trusted(trust, config)
    if strangers := sorted(set(allowed) - set(strings(config))):
        named = (
            ", ".join(path for path in class_paths(config) if not is_known(path))
            or "none outside this package"
        )
        raise ValueError(
            f"{checkpoint.path} does not name {strangers[0]}: leave it out of --trust (classes "
            f"named: {named})"
        )
    mine = is_remembered(config)
    used = {
        name: value for name, value in (config.get("init_args") or {}).items() if name not in given
    }
    for path in class_paths({**config, "init_args": used}):
        if "." not in path or is_known(path) or not is_importable(path):
            continue
        if not (mine or path in allowed):
            raise refusal_of_class(checkpoint, path)
        import_class(checkpoint, path)


def refusal_of_class(checkpoint: TrainingCheckpoint, path: str) -> ValueError:
    """Return what is said of a class that a checkpoint names and nobody has trusted."""
    away = (
        ""
        if has_module(path)
        else f"{path.partition('.')[0]} is not found from here: run in its folder or set PYTHONPATH. "
    )
    return ValueError(
        f"{checkpoint.path} names {path}, which is not of this package, and importing it would "
        f"run its code. {away}If you trust the checkpoint, give --trust {path} (in Python "
        f"trust={path!r})"
    )


def import_class(checkpoint: TrainingCheckpoint, path: str) -> None:
    """Import a trusted class (Raises: ValueError that says why it cannot be, in one line)."""
    try:
        importlib.import_module(path.rpartition(".")[0])
    except Exception as error:
        raise ValueError(
            f"{checkpoint.path} names {path}, which cannot be imported ({type(error).__name__}: "
            f"{error}): run in its folder or set PYTHONPATH, or give the object itself "
            "(--teacher, --network)"
        ) from error
    if find_object(path) is None:
        raise ValueError(
            f"{checkpoint.path} names {path}, and its module has no such class: is it another "
            f"file of that name?"
        )


def strings(config: Any) -> Iterator[str]:
    """Yield every string among the values of a config."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, Mapping):
        for value in config.values():
            yield from strings(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from strings(value)
