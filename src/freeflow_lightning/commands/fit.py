"""freeflow fit and validate: LightningCLI with this package's recipes, default loggers, and resuming."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from freeflow_lightning import callbacks, digits, flow_matching, metrics, module, nets, teachers  # noqa: F401 (short names)
from freeflow_lightning.checkpoint import AtomicCheckpointIO
from freeflow_lightning.commands.errors import BriefErrors
from freeflow_lightning.data import PriorDataModule
from freeflow_lightning.module import FreeFlowModule
from freeflow_lightning.parallel import refusal
from freeflow_lightning.recipe import Recipe
from freeflow_lightning.run_folder import ROOT, MetricsCSV, checkpoint_of_job, last_checkpoint, next_version, version_of


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
                "model": {"class_path": f"{FreeFlowModule.__module__}.{FreeFlowModule.__qualname__}"},
                "data": {"class_path": f"{PriorDataModule.__module__}.{PriorDataModule.__qualname__}"},
            }
        )

    def _parse_ckpt_path(self) -> None:
        """The config and the command line decide; a checkpoint's old settings never override them."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.run_name = Path(str(config.config[0])).stem if config.get("config") else "default"
        self.folder = Path(ROOT) / self.run_name
        if config.get("ckpt_path") == "last":
            config.ckpt_path = str(last_checkpoint(self.folder))
        if self.subcommand == "fit" and (earlier := checkpoint_of_job(self.folder)) is not None:
            config.ckpt_path = str(earlier)  # a requeued job goes on, whatever it was first started from
        strategy = config.trainer.strategy
        name = strategy if isinstance(strategy, str) else str(getattr(strategy, "class_path", "")).rpartition(".")[2]
        if name.lower().startswith(("fsdp_", "fsdpstrategy", "deepspeed")) or name == "fsdp":
            raise ValueError(refusal("deepspeed" if name.lower().startswith("deepspeed") else "fsdp"))
        path = str(config.get("ckpt_path") or "")
        elsewhere = path in ("", "best", "hpc", "registry") or "://" in path  # Lightning finds these
        self.start_step = 0 if elsewhere else resume_step(path)

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        self.model.hparams.update(self._plain_model_config())

    def _plain_model_config(self) -> dict[str, Any]:
        """The model's section of the config, to be carried by the checkpoint."""
        self._dump_config()
        return self.config_dump["model"]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand].trainer
        own: list[Any] = [callbacks.NetworkSummary()]
        given = config.callbacks if isinstance(config.callbacks, list) else [config.callbacks]
        if config.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in given):
            own.append(callbacks.DistillationProgress())
        if SLURMEnvironment.detect() and not any(isinstance(c, callbacks.Requeue) for c in given):
            own.append(callbacks.Requeue())  # the last: after the averages' update
        if config.logger in (None, True):
            kwargs["logger"] = self._loggers()
        plugins = config.plugins if isinstance(config.plugins, list) else [config.plugins] if config.plugins else []
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        extra = [self._get(self.config_init, c) for c in self._parser(self.subcommand).callback_keys]
        return self._instantiate_trainer({**config, **kwargs}, [*extra, *own])

    def _loggers(self) -> list:
        """metrics.csv and TensorBoard events in one folder: the resumed run's own, or a new one."""
        path = self._get(self.config, "ckpt_path")
        resumed = version_of(Path(path), self.folder) if path and self.subcommand == "fit" else None
        n = next_version(self.folder) if resumed is None else resumed
        csv = MetricsCSV(ROOT, self.run_name, n, self.start_step if resumed is not None else 0)
        return [csv, TensorBoardLogger(ROOT, self.run_name, n, default_hp_metric=False)]


def resume_step(path: str) -> int:
    """The optimizer step a checkpoint, a file or the folder of a sharded one, was written at.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: a file that is no checkpoint.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"--ckpt_path: no checkpoint at {path}: give a .ckpt file, or 'last' for the newest one of this config"
        )
    file = Path(path) / "meta.pt" if Path(path).is_dir() else Path(path)
    try:
        return int(torch.load(file, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception as error:
        raise ValueError(f"--ckpt_path: {path} is not a readable checkpoint ({type(error).__name__})") from error


NOISE = (
    ".*isinstance.treespec, LeafSpec.*",  # Lightning on newer torch
    ".*in eval mode at the start of training.*",  # averages are, on purpose
    ".*but have no `val_dataloader`.*",  # val_samples: 0
    ".*Total length of `list` across ranks is zero.*",  # the same
    ".*does not have many workers.*",
)


def quiet() -> None:
    """Drop the messages of libraries that tell the user of this package nothing."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: "Tip:" not in record.getMessage())


SETTINGS: dict[str, Any] = {
    "subclass_mode_model": True,
    "subclass_mode_data": True,
    "seed_everything_default": 0,
    "auto_configure_optimizers": False,
    "save_config_kwargs": {"overwrite": True},
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
    """Parse the command line and run the verb."""
    quiet()
    FreeFlowCLI(Recipe, LightningDataModule, **SETTINGS)
