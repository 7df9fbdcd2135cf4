"""freeflow fit and validate: LightningCLI with this package's recipes, default loggers, and
resuming.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from freeflow_lightning import callbacks, metrics, nets, teachers  # noqa: F401 (short names)
from freeflow_lightning.commands.built_in_configs import name_config_files
from freeflow_lightning.commands.changed_settings import changes, settings_at
from freeflow_lightning.commands.closing import closing_line
from freeflow_lightning.commands.fill_config import (
    as_objects,
    fill_seeds,
    find_beside_config,
    refuse_strategy,
    take_launched_processes,
)
from freeflow_lightning.commands.parser import BriefErrors
from freeflow_lightning.commands.resumed_checkpoint import find_given, read_settings, read_step
from freeflow_lightning.commands.run_place import RunPlace, check_writable
from freeflow_lightning.commands.run_record import RunRecord
from freeflow_lightning.commands.views.fit_help import help_of, name_classes
from freeflow_lightning.examples.digits import data as digits  # noqa: F401 (short names)
from freeflow_lightning.recipes import flow_matching  # noqa: F401 (short names)
from freeflow_lightning.recipes import freeflow as module  # noqa: F401 (short names)
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.recipes.freeflow import FreeFlowModule
from freeflow_lightning.training.checkpoint_files import AtomicCheckpointIO
from freeflow_lightning.training.data import PriorDataModule
from freeflow_lightning.training.folder_lock import lock_folder
from freeflow_lightning.training.quiet import quiet
from freeflow_lightning.training.run_folder import run_of, version_of
from freeflow_lightning.training.run_loggers import Events, MetricsCSV
from freeflow_lightning.training.unfinished_validation import is_validation_pending

FOUND_BY_LIGHTNING = ("best", "hpc", "registry")
"""Words for --ckpt_path that are no path of ours to read."""
BAREBONES = (
    "expected trainer.barebones to be false, got true: a run without logger, checkpoints and bar "
    "leaves nothing behind; to measure the speed of a step, use freeflow bench"
)


class Parser(BriefErrors, LightningArgumentParser):
    """LightningCLI's parser with short errors."""


class FreeFlowCLI(LightningCLI):
    """LightningCLI whose model is a Recipe, FreeFlowModule unless the config says otherwise."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        loaders = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}
        return {"fit": loaders, "validate": loaders}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults(
            {
                "model": {
                    "class_path": f"{FreeFlowModule.__module__}.{FreeFlowModule.__qualname__}"
                },
                "data": {
                    "class_path": f"{PriorDataModule.__module__}.{PriorDataModule.__qualname__}"
                },
            }
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        self.config_folders = [Path(str(given)).parent for given in config.get("config") or []]
        words = {word.rpartition("=")[2] for word in (sys.argv if args is None else args)}
        for section in (config.model, config.data, config.trainer.callbacks):
            find_beside_config(section, self.config_folders[::-1], words)

    def _parse_ckpt_path(self) -> None:
        """The config and the command line decide; a checkpoint's old settings never override
        them.
        """

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        if config.trainer.barebones:
            raise ValueError(BAREBONES)
        take_launched_processes(config.trainer)
        trains = self.subcommand == "fit"
        self.place = RunPlace.of_config(config)
        if trains and not config.trainer.fast_dev_run:
            check_writable(self.place.root.parent)
        found = self.place.find_checkpoint(config.get("ckpt_path"), trains=trains)
        if found is not None:
            config.ckpt_path = str(found.path)
        fill_seeds(config)
        refuse_strategy(config.trainer.strategy)
        path = config.get("ckpt_path")
        self.start_step, self.resumed = 0, None
        self._dump_config()
        if path is None and not trains:
            rank_zero_info("no --ckpt_path: what is validated is the student before its first step")
        elif path is not None and path not in FOUND_BY_LIGHTNING and "://" not in path:
            config.ckpt_path = path = find_given(path, trains=trains)
            self.start_step = read_step(path, trains=trains)
            self.resumed = version_of(Path(path), self.place.folder) if trains else None
            self._say_what_changed(Path(path))
        self.save_config_kwargs = {
            "settings": self.config_dump,
            "origin": self.place.origin,
            "resumed_at": None if self.resumed is None else self.start_step,
        }

    def _say_what_changed(self, checkpoint: Path) -> None:
        """Name the checkpoint, and in one line each the settings that it was not written with."""
        rank_zero_info(f"going on from step {self.start_step} of {checkpoint}")
        run = run_of(checkpoint)
        before = settings_at(run, self.start_step) if run else None
        if before is None:  # a file that was moved out of its run knows the model's settings
            before = read_settings(checkpoint)
        after = {name: value for name, value in self.config_dump.items() if name in before}
        for line in changes(before, after):
            rank_zero_info(f"changed: {line}")
        steps = self.config[self.subcommand].trainer.max_steps
        if self.subcommand == "fit" and 0 <= steps <= self.start_step:
            rank_zero_info(f"nothing is left to train: trainer.max_steps is {steps}")

    def after_fit(self) -> None:
        """Say in one line what the run has left."""
        run = self.trainer.log_dir  # every process asks: Lightning tells them the first one's
        if self.trainer.is_global_zero and run:
            print(closing_line(self.trainer, Path(run)))

    def after_validate(self) -> None:
        """Say where the callbacks have written to."""
        run = self.trainer.log_dir
        if self.trainer.is_global_zero and run:
            print(f"the folder of this validation: {run}")
            if not self.trainer.callback_metrics:
                print("no figure was measured: trainer.callbacks has none that does (PeriodicFID)")

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self.model.hparams.update(self._plain_model_config())
        self.model.folders = [str(folder.resolve()) for folder in [*self.config_folders, Path()]]

    def _plain_model_config(self) -> dict[str, Any]:
        """Return the model's section of the config, to be carried by the checkpoint."""
        self._dump_config()
        return self.config_dump["model"]

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb; of a run that goes on, in a folder that no other process goes on with."""
        is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # set by Lightning
        run = self.place.folder / f"version_{self.resumed}"
        with lock_folder(run, "fit") if is_first and self.resumed is not None else nullcontext():
            super()._run_subcommand(subcommand)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand].trainer
        given = as_objects(config.callbacks)
        added: list[Any] = [callbacks.NetworkSummary()]
        has_requeue = any(isinstance(callback, callbacks.Requeue) for callback in given)
        if SLURMEnvironment.detect() and not has_requeue:
            added.append(callbacks.Requeue())  # the last: after the averages' update
        kwargs["logger"] = self._loggers(config.logger)
        plugins = as_objects(config.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        keys = self._parser(self.subcommand).callback_keys
        forced = [self._get(self.config_init, key) for key in keys]
        return self._instantiate_trainer({**config, **kwargs}, [*forced, *added])

    def _loggers(self, given: Any) -> list[Logger]:
        """Return the run's own metrics.csv, and the loggers that are named; TensorBoard's if none
        are.
        """
        kept = 0 if self.resumed is None else self.start_step
        repeats_validation = self.resumed is not None and is_validation_pending(
            Path(self._get(self.config, "ckpt_path"))
        )
        table = MetricsCSV(self.place.root, self.place.name, self.resumed, kept, repeats_validation)
        if given in (None, True):
            return [table, Events(table)]
        return [table, *as_objects(given)]


SETTINGS: dict[str, Any] = {
    "subclass_mode_model": True,
    "subclass_mode_data": True,
    "seed_everything_default": 0,
    "auto_configure_optimizers": False,
    "save_config_callback": RunRecord,
    "trainer_defaults": {
        "max_epochs": -1,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "log_every_n_steps": 50,
    },
    "parser_class": Parser,
    "parser_kwargs": {"prog": "freeflow"},
}
"""LightningCLI's, for every verb that reads a config of fit."""


def main() -> None:
    """Parse the command line and run the verb, or show its help."""
    quiet()
    verb, words = sys.argv[1], sys.argv[2:]
    page = help_of(verb, words)
    if page is not None:
        print(page)
        return
    sys.argv[2:] = name_config_files(name_classes(words))
    FreeFlowCLI(Recipe, LightningDataModule, **SETTINGS)
