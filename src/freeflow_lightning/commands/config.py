"""A config of `freeflow fit`, read by commands that do something else with it."""

import warnings
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule

from freeflow_lightning.commands.built_in_configs import find_config
from freeflow_lightning.commands.fit import SETTINGS, FreeFlowCLI
from freeflow_lightning.profiling.step_memory import PrecisionName
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


def read_fit(path: str, overrides: list[str]) -> Namespace:
    """Return the settings of `freeflow fit --config PATH OVERRIDES`, nothing of them built.

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


def build_object(kind: type, config: dict[str, Any]) -> Any:
    """Return the object of a class_path and its init_args, of the given kind."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "it")
    return parser.instantiate_classes(parser.parse_object({"it": config})).it


def refuse_overrides(overrides: list[str] | None, config: str | None) -> None:
    """Refuse options that change a config where there is none (Raises: ValueError)."""
    if overrides and not config:
        raise ValueError(
            f"{overrides[0]} changes a config: give one with --config, or leave it out"
        )


PRECISIONS: dict[str, PrecisionName] = {
    "32": "32",
    "32-true": "32",
    "bf16": "bf16-mixed",
    "bf16-mixed": "bf16-mixed",
    "bf16-true": "bf16-true",
}
"""Lightning's names and the three that are told apart."""


def find_precision(given: PrecisionName | None, settings: Namespace) -> PrecisionName:
    """Return the precision that was given beside a config, or that of its Trainer (Raises:
    ValueError for one whose costs are not known).
    """
    if given is not None:
        return given
    name = str(settings.precision or 32)
    if name not in PRECISIONS:
        raise ValueError(
            f"the costs of precision {name!r} are not known: give --precision, one of "
            f"{sorted(set(PRECISIONS.values()))}"
        )
    return PRECISIONS[name]


class DistillationConfig(NamedTuple):
    """A config of `freeflow fit` whose model is a Distillation; of its objects the teacher is built.

    Args:
        teacher: the model's.
        model: class_path and init_args of the model, the teacher apart.
        fit: all settings.
    """

    teacher: Teacher
    model: dict[str, Any]
    fit: Namespace

    @property
    def arguments(self) -> dict[str, Any]:
        """The model's, without the teacher."""
        return self.model["init_args"]

    def make(self, teacher: Teacher) -> Distillation:
        """Build the model around a teacher, its own or a stand-in."""
        return build_object(
            Distillation, self.model | {"init_args": self.arguments | {"teacher": teacher}}
        )


def read_distillation(path: str, overrides: list[str]) -> DistillationConfig:
    """Read the config at a path, changed by overrides (Raises: ValueError where its model distils
    no teacher).
    """
    fit = read_fit(path, overrides)
    model = fit.model.as_dict()
    if "teacher" not in model.get("init_args", {}):
        raise ValueError(
            f"{path} distils no teacher: its model is {model['class_path']}, expected a "
            "Distillation"
        )
    teacher = build_object(Teacher, model["init_args"].pop("teacher"))
    return DistillationConfig(teacher, model, fit)
