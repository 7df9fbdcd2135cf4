"""Where the files are that a checkpoint's config names by relative paths."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freeflow_lightning.training.training_checkpoint import TrainingCheckpoint


def places_of(checkpoint: TrainingCheckpoint) -> list[Path]:
    """Folders in which a checkpoint's relative paths are looked for, before the current one."""
    beside = checkpoint.path.resolve().parent
    run = [beside.parent] if beside.name == "checkpoints" else []
    recorded = [Path(folder) for folder in checkpoint.about.get("folders", [])]
    return [beside, *run, *recorded]


def find_files(config: Any, places: Sequence[Path]) -> Any:
    """Return a config whose relative paths lead to where the files are: the first of `places` that
    has one, or the current folder.

    A value is taken for a path if it looks like one (a suffix or a slash) and something is there.
    """
    if isinstance(config, Mapping):
        return {
            name: value if name == "class_path" else find_files(value, places)
            for name, value in config.items()
        }
    if isinstance(config, list):
        return [find_files(value, places) for value in config]
    if (
        not isinstance(config, str)
        or not ("/" in config or "." in config)
        or Path(config).is_absolute()
    ):
        return config
    found = next((place / config for place in places if (place / config).exists()), None)
    return config if found is None else str(found)
