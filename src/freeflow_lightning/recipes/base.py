"""Recipe: what every training recipe shares: averages, gradients per network, and a stop at the
first non-finite number.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from freeflow_lightning.nets.recorded import Recorded, constructor_arguments
from freeflow_lightning.recipes.holders import Averages
from freeflow_lightning.recipes.outputs import ValidationBatch
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.checkpoint_files import read_plain_values
from freeflow_lightning.training.data import IndexBatch
from freeflow_lightning.training.effective_batch import EffectiveBatch
from freeflow_lightning.training.finite import FiniteWatch, NonFiniteError, max_magnitudes
from freeflow_lightning.training.gradients import (
    collect_gradients,
    label_gradients,
    measure_tensors,
    norm_by_network,
    skips_by_itself,
)
from freeflow_lightning.training.last_step import LastStep
from freeflow_lightning.training.meta_init import materialize
from freeflow_lightning.training.monitors import MonitoredFigures
from freeflow_lightning.training.optimizer import MasterAdam, apply_changes, settings_of, trained_by
from freeflow_lightning.training.own_runs import remember_config
from freeflow_lightning.training.progress import replace_defaults
from freeflow_lightning.training.quiet import quiet
from freeflow_lightning.training.rebuild import load_recipe
from freeflow_lightning.training.record import describe, weights_sample
from freeflow_lightning.training.resumed_averages import match_averages
from freeflow_lightning.training.sharding import shard
from freeflow_lightning.training.strategy_checks import check_reader, check_strategy
from freeflow_lightning.training.trainer_facts import (
    check_trainer,
    find_newest_checkpoint,
    is_logged,
    log_at_step,
)
from freeflow_lightning.training.training_checkpoint import ABOUT, training_facts
from freeflow_lightning.training.unfinished_validation import UnfinishedValidation

quiet()  # now, as Lightning advises already where a Trainer is made


class Recipe(Recorded, LightningModule, ABC):
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
        self.weights_step: int | None = 0
        """The optimizer step whose weights and averages these are; None while they change."""
        self._finite = FiniteWatch()
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

    @abstractmethod
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks in training by name, one parameter group each."""

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
        """A copy of `trained` that becomes the average `name`."""
        return deepcopy(self.trained)

    @property
    def evaluated(self) -> nn.Module:
        """The network that samples and metrics come from: the first average, or the raw network
        without StudentEMA.
        """
        return next(iter(self.averages.values()), self.trained)

    def weights(self) -> list[Tensor]:
        """The weights of `trained` in the order of its parameters, in float32 where the optimizer
        holds them so.
        """
        optimizer = self.trainer.optimizers[0]
        masters = optimizer.masters if isinstance(optimizer, MasterAdam) else {}
        return [masters.get(p, p.data) for p in self.trained.parameters()]

    def networks_to_shard(self) -> list[nn.Module]:
        """The networks that FSDP2 shards."""
        return [*self.networks().values(), *self.averages.values()]

    def meta_weights(self) -> dict[Tensor, Tensor]:
        """Weights that have a shape and no data yet, and what they are copies of."""
        return {}

    def configure_callbacks(self) -> list[Callback]:
        """What every run needs: its last step in `last`, a validation that was cut short made up for
        on resuming, figures where callbacks watch some, a word where the batch has changed, and a bar
        that counts steps.
        """
        present = self.trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning, undeclared
        kinds = {type(callback) for callback in present}  # where this Trainer has run before
        needed = [
            callback
            for callback in (
                EffectiveBatch(),
                UnfinishedValidation(),
                MonitoredFigures(),
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

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let figures be logged at their own step: after resuming from a validation's checkpoint
        Lightning is one ahead.
        """
        log_at_step(self.trainer, self.global_step)

    @torch.no_grad()
    def validation_step(self, batch: IndexBatch, batch_idx: int) -> ValidationBatch:  # type: ignore[override]  # only callbacks see it
        z, condition = self.teacher.draw_indexed(
            batch.indices, seed=batch.seed, stream="validation", device=self.device
        )
        samples = self.generate(z, condition)
        return ValidationBatch(batch.indices, z, condition, samples)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Measure, check and, if asked, clip the gradient norm of each network by itself.

        From the first number on that is not finite, a fused optimizer leaves the weights as they
        are, on the device and by itself; for any other, and for sharded weights, the host waits for
        the norms.
        """
        if gradient_clip_algorithm not in (None, "norm"):
            raise ValueError(
                f"expected gradient_clip_algorithm 'norm', got {gradient_clip_algorithm!r}"
            )
        weights = dict(zip(self.networks(), trained_by(optimizer), strict=True))
        gradients = collect_gradients(weights)
        lengths = measure_tensors(gradients)
        skips = skips_by_itself(optimizer, gradients)
        self._finite.add(self.global_step, label_gradients(gradients), lengths)
        self._raise_if_broken(wait=not skips)
        if skips:
            optimizer.found_inf = self._finite.broken
        self.weights_step = None  # the optimizer's update is next
        if not (gradient_clip_val or self.logs_now):
            return

        norms = norm_by_network(gradients, lengths)
        if gradient_clip_val:
            for name, norm in norms.items():
                torch.nn.utils.clip_grads_with_norm_(weights[name], gradient_clip_val, norm)
        if self.logs_now:
            self.log_dict({f"gradient/{name}": norm for name, norm in norms.items()})

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.weights_step = self.global_step + 1  # Lightning counts it after this

    @property
    def logs_now(self) -> bool:
        """Whether Lightning will write the figures of this step: figures cost time and are made for
        such steps only.
        """
        return is_logged(self.trainer, self.global_step + 1)

    def check_finite(self, terms: dict[str, Tensor]) -> None:
        """Stop the run where a term is not finite: now, or within a few steps that change no
        weight.

        Raises:
            NonFiniteError: with the terms, their step and the last checkpoint.
        """
        self._finite.add(self.global_step, list(terms), max_magnitudes(list(terms.values())))
        self._raise_if_broken(wait=False)

    def _raise_if_broken(self, *, wait: bool) -> None:
        if (broken := self._finite.look(wait=wait)) is None:
            return
        checkpoint = find_newest_checkpoint(self.trainer) or "none written yet"
        raise NonFiniteError(
            f"{' and '.join(broken.names)} not finite at step {broken.step} (rank "
            f"{self.global_rank}). The weights of this step were not updated; last checkpoint: "
            f"{checkpoint}. Resume from it with a lower learning rate, gradient clipping "
            "(--trainer.gradient_clip_val) or a higher precision.",
            broken.step,
        )

    def on_fit_start(self) -> None:
        """Note how the optimizers are configured: a checkpoint's state will be loaded over it."""
        self._settings = [settings_of(optimizer) for optimizer in self.trainer.optimizers]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fit the averages of a checkpoint to this module's, and note its optimizers' settings."""
        if "state_dict" in checkpoint:
            match_averages(self, checkpoint["state_dict"])
        self._loaded_settings = checkpoint.get("optimizer_settings", [])

    def on_train_start(self) -> None:
        """Give the restored optimizers the settings that have been changed since the checkpoint."""
        self._finite = FiniteWatch()
        self.weights_step = self.global_step
        saved, self._loaded_settings = self._loaded_settings, None
        if saved is None or not self._settings:
            return
        optimizers = self.trainer.optimizers
        then = saved or [settings_of(optimizer) for optimizer in optimizers]  # 0.1.0 saved none
        schedules = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        for optimizer, before, now in zip(optimizers, then, self._settings, strict=True):
            for change in apply_changes(optimizer, before, now, schedules):
                rank_zero_info(f"going on with {change}")

    def on_validation_start(self) -> None:
        self._raise_if_broken(wait=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """No checkpoint is written of steps whose numbers the host has not seen, and each says what
        it is of.
        """
        self._raise_if_broken(wait=True)
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
        """The recipe of a checkpoint with its weights, averages included, from the config that the
        checkpoint carries.

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

    def on_train_end(self) -> None:
        self._raise_if_broken(wait=True)
