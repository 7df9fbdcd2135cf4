"""A config of `freeflow fit`, read by commands that do something else with it."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule

from freeflow_lightning.commands.built_in_configs import find_config
from freeflow_lightning.commands.fit import SETTINGS, FreeFlowCLI
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.teachers import Teacher


class ConfigOnly(FreeFlowCLI):
    """Parses as `freeflow fit` does, and stops there."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _set_seed(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def parsed_fit(path: str, overrides: list[str]) -> Namespace:
    """The settings of `freeflow fit --config PATH OVERRIDES`, nothing of them built.

    Raises:
        FileNotFoundError: no such file, and no config of that name in the package.
    """
    found = str(find_config(path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        parsed = ConfigOnly(
            Recipe, LightningDataModule, args=["fit", "--config", found, *overrides], **SETTINGS
        )
    return parsed.config["fit"]


def build(kind: type, config: dict[str, Any]) -> Any:
    """The object of a class_path and its init_args, of the given kind."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "it")
    return parser.instantiate_classes(parser.parse_object({"it": config})).it


PRECISIONS_OF = {
    "32": "32",
    "32-true": "32",
    "bf16": "bf16-mixed",
    "bf16-mixed": "bf16-mixed",
    "bf16-true": "bf16-true",
}
"""Lightning's names and the three that are told apart."""


class Subject(NamedTuple):
    """What is inspected: a teacher (None where only costs are asked for), and how a module is made
    of a stand-in for it.
    """

    name: str
    teacher: Teacher | None
    make: Callable[[Teacher], Distillation]
    guided: bool = True
    batch_size: int = 64
    precision: str = "bf16-mixed"
    averages: int = 1
    has_network: bool = False
    """Whether the config gives the student a network of its own."""
    student_lr: float | None = None
