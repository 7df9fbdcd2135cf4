"""One contender of a comparison: a config of `freeflow fit`, and what it makes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ProgressBar

from freeflow_lightning.callbacks import (
    DistillationProgress,
    HealthMonitor,
    NetworkSummary,
    PeriodicFID,
    Requeue,
    SampleGrid,
    SaveTeacher,
    TrajectoryError,
)
from freeflow_lightning.commands.built_in_configs import find_config
from freeflow_lightning.commands.config import build_object, read_fit
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.teachers import Teacher

OBSERVERS = (
    Checkpoint,
    DistillationProgress,
    EarlyStopping,
    HealthMonitor,
    NetworkSummary,
    PeriodicFID,
    ProgressBar,
    Requeue,
    SampleGrid,
    SaveTeacher,
    TrajectoryError,
)
"""Callbacks that train nothing: a comparison does without them, and validates nothing."""

OF_TRAINER = (
    "precision",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "accumulate_grad_batches",
    "deterministic",
)
"""What a comparison takes of a config's trainer."""


class Contender(NamedTuple):
    """A method: its name, and the settings of `freeflow fit` for its config.

    Args:
        name: of its last file.
        words: as the command line names it.
        settings: nothing of them built.
    """

    name: str
    words: str
    settings: Namespace

    @property
    def max_steps(self) -> int:
        """Of the config's own run."""
        return int(self.settings.trainer.max_steps)

    @property
    def micro_batches(self) -> int:
        """Of one optimizer step."""
        return int(self.settings.trainer.accumulate_grad_batches)

    @property
    def decay(self) -> float:
        """Share of the config's own run over whose end its learning rates fall."""
        steps = self.settings.model.as_dict()["init_args"].get("lr_decay_steps") or 0
        return min(1.0, steps / self.max_steps) if steps else 0.0

    def check_end(self) -> None:
        """Refuse rates that fall at the end of a run that has none (ValueError)."""
        if self.decay < 0:
            raise ValueError(
                "lr_decay_steps is a share of a run that ends: set --trainer.max_steps, or "
                "--model.lr_decay_steps 0"
            )

    @property
    def batch_size(self) -> int:
        """Of the config's own data."""
        return int(self.settings.data.init_args.batch_size)

    def teacher(self) -> Teacher:
        """Return the frozen teacher."""
        return build_object(Teacher, self.settings.model.as_dict()["init_args"]["teacher"])

    def module(self, rate: float = 1.0) -> Distillation:
        """Return the recipe, with a multiple of its student's learning rate; rates fall by `decay`,
        as a run of a budget has no number of steps.
        """
        module = build_object(Distillation, self.settings.model.as_dict())
        module.lr_decay_steps = 0
        module.student_lr *= rate
        return module

    def data(self, seed: int) -> LightningDataModule:
        """Return what the recipe draws from."""
        data = self.settings.data.as_dict()
        arguments = data.get("init_args", {}) | {"seed": seed}
        return build_object(LightningDataModule, data | {"init_args": arguments})

    def callbacks(self) -> list[Callback]:
        """Return those that change training."""
        given = self.settings.trainer.callbacks or []
        built = [build_object(Callback, callback.as_dict()) for callback in given]
        return [callback for callback in built if not isinstance(callback, OBSERVERS)]

    def facts(self) -> dict[str, Any]:
        """Return all that its training depends on, as JSON."""
        trainer = self.settings.trainer
        facts = {
            "model": self.settings.model.as_dict(),
            "data": self.settings.data.as_dict(),
            "callbacks": [each.as_dict() for each in trainer.callbacks or []],
            "trainer": {name: trainer.get(name) for name in OF_TRAINER},
        }
        return plain_values(facts)


def plain_values(value: Any) -> Any:
    """Return the value with everything in it that JSON does not know as text."""
    if isinstance(value, Mapping):
        return {str(name): plain_values(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(part) for part in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def read_contender(words: str, overrides: list[str]) -> Contender:
    """Return the contender of a config, a file or a name of the package's, or of several joined by
    +, of which the later ones win.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a config that distils no teacher.
    """
    parts = [words] if Path(words).is_file() else words.split("+")
    first, *others = [str(find_config(part)) for part in parts]
    further = [word for path in others for word in ("--config", path)]
    settings = read_fit(first, [*further, *overrides])
    if "teacher" not in settings.model.get("init_args", {}):
        raise ValueError(
            f"{words} distils no teacher: its model is {settings.model.class_path}, expected a "
            f"Distillation"
        )
    return Contender(Path(parts[-1]).stem, words, settings)
