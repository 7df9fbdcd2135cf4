"""Class paths and arguments of 0.1.0 and their names of today: configs and checkpoints that name
them still open.
"""

from typing import Any

MODULES = {
    "callbacks.progress": "training.progress",
    "checkpoint": "training.checkpoint_files",
    "data": "training.data",
    "digits": "examples.digits.data",
    "flow.flow_map": "flow.derivative",
    "flow_map": "students.flow_map",
    "flow_matching": "recipes.flow_matching",
    "metrics.digits_classifier": "examples.digits.classifier",
    "metrics.dino": "metrics.dinov2",
    "module": "recipes.freeflow",
    "noise_search": "students.search.noise_search",
    "official": "students.official_weights",
    "optimizer": "training.optimizer",
    "parallel": "training.strategies",
    "recipe": "recipes.base",
    "run_folder": "training.run_loggers",
    "search": "students.search",
    "search.algorithms": "students.search.algorithms",
    "search.oracle": "students.search.oracle",
    "search.verifiers": "students.search.verifiers",
    "teachers.checkpoints": "teachers.reading.sit_files",
    "teachers.diffusers": "teachers.diffusers.teacher",
    "teachers.diffusers_families": "teachers.diffusers.families",
    "teachers.diffusers_files": "teachers.diffusers.files",
    "teachers.diffusers_previews": "teachers.diffusers.previews",
}
"""A module of 0.1.0, and the one that has its classes today; both below freeflow_lightning."""

ARGUMENTS = {"HealthMonitor": {"least_diversity": "least_spread"}}
"""A class, and those of its arguments in 0.1.0 that have another name today."""


def find_new_path(path: str) -> str:
    """Return where the class of a path is today; the path itself where it has not moved.

    >>> find_new_path("freeflow_lightning.module.FreeFlowModule")
    'freeflow_lightning.recipes.freeflow.FreeFlowModule'
    >>> find_new_path("freeflow_lightning.FreeFlowModule")
    'freeflow_lightning.FreeFlowModule'
    """
    module, _, name = path.rpartition(".")
    package, _, inside = module.partition(".")
    if package != "freeflow_lightning" or inside not in MODULES:
        return path
    return f"freeflow_lightning.{MODULES[inside]}.{name}"


def use_new_paths(config: Any) -> Any:
    """Return a config in which class paths and arguments have their names of today.

    >>> use_new_paths({"class_path": "freeflow_lightning.digits.DigitsDataModule", "seed": 0})
    {'class_path': 'freeflow_lightning.examples.digits.data.DigitsDataModule', 'seed': 0}
    """
    if isinstance(config, dict):
        renamed = {name: use_new_paths(value) for name, value in config.items()}
        if isinstance(renamed.get("init_args"), dict):
            names = ARGUMENTS.get(str(renamed.get("class_path")).rpartition(".")[2], {})
            arguments = renamed["init_args"].items()
            renamed["init_args"] = {names.get(name, name): value for name, value in arguments}
        return renamed
    if isinstance(config, list | tuple):
        return type(config)(use_new_paths(value) for value in config)
    return find_new_path(config) if isinstance(config, str) else config
