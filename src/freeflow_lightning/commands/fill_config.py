"""What fit fills into a config, or refuses in it, before anything is built."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from freeflow_lightning import callbacks, metrics, nets, teachers  # noqa: F401 (short names)
from freeflow_lightning.examples.digits import data as digits  # noqa: F401 (short names)
from freeflow_lightning.recipes import flow_matching  # noqa: F401 (short names)
from freeflow_lightning.recipes import freeflow as module  # noqa: F401 (short names)
from freeflow_lightning.training.config_files import find_files
from freeflow_lightning.training.elastic import launched_processes
from freeflow_lightning.training.strategy_checks import refusal_of_strategy


def as_objects(given: Any) -> list[Any]:
    """Return a list of what a Trainer's option was given: one object, several, or none."""
    if isinstance(given, list):
        return given
    return [given] if given else []


def refuse_strategy(strategy: Any) -> None:
    """Refuse the strategies that a distillation cannot use, by name or by class (ValueError)."""
    path = strategy if isinstance(strategy, str) else getattr(strategy, "class_path", "")
    name = str(path).rpartition(".")[2].lower()
    if name.startswith("deepspeed"):
        raise ValueError(refusal_of_strategy("deepspeed"))
    if name == "fsdp" or name.startswith(("fsdp_", "fsdpstrategy")):
        raise ValueError(refusal_of_strategy("fsdp"))


def find_beside_config(config: Any, folders: list[Path], words: set[str]) -> None:
    """Let the relative paths in a config lead to the files beside it, before those of the current
    folder.

    Args:
        config: a section; changed in place.
        folders: of the configs that it is made of, the last first.
        words: of the command line, where a path is the current folder's.
    """
    parts = config if isinstance(config, list) else [config]
    for part in parts:
        for name, value in vars(part).items() if isinstance(part, Namespace) else ():
            if isinstance(value, Namespace | list):
                find_beside_config(value, folders, words)
            elif name != "class_path" and str(value) not in words:
                part[name] = find_files(value, folders)


def fill_seeds(config: Namespace) -> None:
    """Make --seed_everything the seed of everything that is drawn, where no other seed is given."""
    for section in (config.get("model"), config.get("data")):
        arguments = section.get("init_args") if section else None
        if not arguments or config.seed_everything is False:
            continue
        if "seed" in arguments and arguments.seed is None:
            arguments.seed = int(config.seed_everything)


def take_launched_processes(settings: Any) -> None:
    """Let the Trainer have the processes that torchrun has started, however many its config
    names.
    """
    launched = launched_processes()
    if launched is None:
        return
    for name, started in (("devices", launched.devices), ("num_nodes", launched.nodes)):
        given = settings[name]
        if is_list_of(given, started):
            continue
        settings[name] = started
        if given not in ("auto", started, str(started)):
            asked = f"(the config says {given})"
            rank_zero_info(f"torchrun has started trainer.{name} {started} {asked}")


def is_list_of(given: Any, count: int) -> bool:
    """Return whether devices are named one by one, and as many as there are."""
    return isinstance(given, list) and len(given) == count
