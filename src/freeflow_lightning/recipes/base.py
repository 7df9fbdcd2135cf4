"""Recipe: what every training recipe shares: its averages, its validation, its checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from freeflow_lightning.nets.load_weights import refuse_other_kinds
from freeflow_lightning.nets.recorded import Recorded, constructor_arguments
from freeflow_lightning.recipes.guarded import GuardedModule
from freeflow_lightning.recipes.holders import Averages
from freeflow_lightning.recipes.outputs import ValidationBatch
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.checkpoint_files import read_plain_values
from freeflow_lightning.training.data import IndexBatch
from freeflow_lightning.training.effective_batch import EffectiveBatch
from freeflow_lightning.training.last_step import LastStep
from freeflow_lightning.training.log_settings import log_settings
from freeflow_lightning.training.meta_init import materialize
from freeflow_lightning.training.monitors import MonitoredFigures
from freeflow_lightning.training.one_thread import OneThread
from freeflow_lightning.training.optimizer import MasterAdam, apply_changes, settings_of
from freeflow_lightning.training.own_runs import remember_config
from freeflow_lightning.training.progress import replace_defaults
from freeflow_lightning.training.quiet import quiet
from freeflow_lightning.training.rebuild import load_recipe
from freeflow_lightning.training.record import describe, weights_sample
from freeflow_lightning.training.resumed_averages import match_averages
from freeflow_lightning.training.sharding import shard
from freeflow_lightning.training.strategy_checks import check_reader, check_strategy
from freeflow_lightning.training.trainer_facts import check_trainer
from freeflow_lightning.training.training_checkpoint import ABOUT, training_facts
from freeflow_lightning.training.unfinished_validation import UnfinishedValidation

quiet()  # now, as Lightning advises already where a Trainer is made


class Recipe(Recorded, GuardedModule, ABC):
    """A training recipe: an abstract LightningModule that the callbacks of this package know how to
    serve.

    `averages` holds the moving averages of `trained`, put there by StudentEMA; samples and metrics
    come from the first. A checkpoint says what the recipe was constructed with: the config of
    `freeflow fit`, or the arguments given in Python.

    Attributes:
        folders: where relative paths of its config were found, for checkpoints that are opened from
            elsewhere.
    """

    progress_names: ClassVar[Mapping[str, str]] = {}
    """Figures that the progress bar shows, and their short names there."""

    evaluation_guidance: float
    """Guidance scale of validation samples."""

    def __init__(self) -> None:
        description = describe(self)  # before anything changes the arguments
        teacher = (constructor_arguments(self) or {}).get("teacher")
        super().__init__()
        quiet()
        self._description = description
        self._teacher_weights = weights_sample(teacher) if isinstance(teacher, Teacher) else None
        self._is_remembered = False
        self.folders = [str(Path.cwd())]
        self.averages = Averages()
        self._settings: list[list[dict[str, Any]]] = []
        self._loaded_settings: list[list[dict[str, Any]]] | None = None

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The network that samples are drawn with and that is averaged."""

    @abstractmethod
    def generate(self, z: Tensor, condition: Any) -> Tensor:
        """Samples for the noise z [B, ...] as this recipe's users would draw them, from
        `evaluated`.
        """

    @property
    @abstractmethod
    def sampling(self) -> str:
        """How `generate` draws, in a word or two for the label of a picture."""

    @property
    @abstractmethod
    def teacher(self) -> Teacher:
        """What decodes and conditions the samples."""

    def summary_rows(self) -> list[tuple[str, nn.Module, str]]:
        """Name, network and state of all that is in memory, for the summary."""
        averages = [(name, average, "average, saved") for name, average in self.averages.items()]
        return [(name, network, "trained") for name, network in self.networks().items()] + averages

    def tensors_by_network(self) -> dict[str, list[Tensor]]:
        """Weights and buffers in memory by row of the summary, each once.

        A network that is trained owns what it shares with the teacher: an adapter sits in the
        teacher's layers.
        """
        found: dict[str, list[Tensor]] = {}
        taken: set[int] = set()
        for name, network, _ in reversed(self.summary_rows()):
            tensors = {id(tensor): tensor for tensor in [*network.parameters(), *network.buffers()]}
            found[name] = [tensor for key, tensor in tensors.items() if key not in taken]
            taken |= tensors.keys()
        return dict(reversed(found.items()))

    def make_average(self, name: str) -> nn.Module:
        """Return a copy of `trained` that becomes the average `name`."""
        return deepcopy(self.trained)

    @property
    def evaluated(self) -> nn.Module:
        """The network that samples and metrics come from: the first average, or the raw network
        without StudentEMA.
        """
        return next(iter(self.averages.values()), self.trained)

    def weights(self) -> list[Tensor]:
        """Return the weights of `trained` in the order of its parameters, in float32 where the
        optimizer holds them so.
        """
        optimizer = self.trainer.optimizers[0]
        masters = optimizer.masters if isinstance(optimizer, MasterAdam) else {}
        return [masters.get(p, p.data) for p in self.trained.parameters()]

    def networks_to_shard(self) -> list[nn.Module]:
        """Return the networks that FSDP2 shards."""
        return [*self.networks().values(), *self.averages.values()]

    def meta_weights(self) -> dict[Tensor, Tensor]:
        """Weights that have a shape and no data yet, and what they are copies of."""
        return {}

    def configure_callbacks(self) -> list[Callback]:
        """Return what every run needs: its last step in `last`, a validation that was cut short
        made up for on resuming, figures where callbacks watch some, a word where the batch has
        changed, one thread for small networks on a CPU, and a bar that counts steps.
        """
        present = self.trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning, undeclared
        kinds = {type(callback) for callback in present}  # where this Trainer has run before
        needed = [
            callback
            for callback in (
                EffectiveBatch(),
                UnfinishedValidation(),
                MonitoredFigures(),
                OneThread(),
                LastStep(),
            )
            if type(callback) not in kinds
        ]
        return [*replace_defaults(self.trainer), *needed]

    def configure_model(self) -> None:
        """Refuse a strategy or precision that would train wrongly; shard the networks where the
        strategy does.
        """
        check_trainer(self.trainer)
        strategy = self.trainer.strategy
        read_plain_values(strategy)
        check_strategy(strategy, self.trainer.precision)
        check_reader(strategy, self.trainer.ckpt_path)
        if isinstance(strategy, ModelParallelStrategy):
            shard(
                self.networks_to_shard(), strategy.device_mesh["data_parallel"], self.meta_weights()
            )
        else:
            materialize(self, self.meta_weights())

    @torch.no_grad()
    def validation_step(self, batch: IndexBatch, batch_idx: int) -> ValidationBatch:  # type: ignore[override]  # only callbacks see it
        z, condition = self.teacher.draw_indexed(
            batch.indices, seed=batch.seed, stream="validation", device=self.device
        )
        samples = self.generate(z, condition)
        return ValidationBatch(batch.indices, z, condition, samples)

    def on_fit_start(self) -> None:
        """Note how the optimizers are configured: a checkpoint's state will be loaded over it. Tell the
        loggers what this recipe was made with, where `freeflow fit` has not told them more.
        """
        self._settings = [settings_of(optimizer) for optimizer in self.trainer.optimizers]
        if self.trainer.is_global_zero and "class_path" not in self.hparams:
            for logger in self.trainer.loggers:
                log_settings(logger, {"model": self._description})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fit the averages of a checkpoint to this module's, and note its optimizers' settings."""
        if "state_dict" in checkpoint:
            match_averages(self, checkpoint["state_dict"])
            misfit = "the checkpoint's weights do not fit this run"
            refuse_other_kinds(self, checkpoint["state_dict"], misfit)
        self._loaded_settings = checkpoint.get("optimizer_settings", [])

    def on_train_start(self) -> None:
        """Give the restored optimizers the settings that have been changed since the checkpoint."""
        super().on_train_start()
        saved, self._loaded_settings = self._loaded_settings, None
        if saved is None or not self._settings:
            return
        optimizers = self.trainer.optimizers
        then = saved or [settings_of(optimizer) for optimizer in optimizers]  # 0.1.0 saved none
        schedules = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        for optimizer, before, now in zip(optimizers, then, self._settings, strict=True):
            for change in apply_changes(optimizer, before, now, schedules):
                rank_zero_info(f"going on with {change}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint say what it is of."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["optimizer_settings"] = self._settings
        from_config = "class_path" in checkpoint.get("hyper_parameters", {})
        if not from_config:
            checkpoint["hyper_parameters"] = self._description
        checkpoint[ABOUT] = training_facts(
            self.folders, None if from_config else self._teacher_weights
        )
        if self.trainer.is_global_zero and not self._is_remembered:
            self._is_remembered = True
            remember_config(checkpoint["hyper_parameters"])

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's would unpickle what an address leads to
        cls,
        checkpoint_path: str | Path,
        map_location: str | torch.device | None = None,
        *,
        trust: str | Sequence[str] | None = None,
        **given: Any,
    ) -> Self:
        """Return the recipe of a checkpoint with its weights, averages included, from the config
        that the checkpoint carries.

        Args:
            checkpoint_path: a file, the folder of a sharded run, a run's folder or an address.
                Nothing in it is executed.
            map_location: device to move the recipe to; the CPU if not given.
            trust: class paths outside this package that the config may import.
            given: arguments of the constructor, which take the place of the config's: teacher=...,
                network=...

        Raises:
            FileNotFoundError: no such checkpoint.
            ValueError: a checkpoint that cannot be read, does not say an argument, or does not fit.
        """
        recipe: Self = load_recipe(cls, checkpoint_path, trust, given)
        return recipe if map_location is None else recipe.to(map_location)
