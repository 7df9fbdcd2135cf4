"""One contender of a comparison: a config of `freeflow fit`, trained within a budget."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
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
from freeflow_lightning.evaluation.methods import Figures, Point, Run
from freeflow_lightning.evaluation.yardstick import student_of
from freeflow_lightning.metrics.images import DivergedSamplesError
from freeflow_lightning.profiling.budget import Budget, BudgetedTraining, Spent
from freeflow_lightning.profiling.clock import Clock
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.students.flow_map import FlowMap
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.training.atomic_write import write_json
from freeflow_lightning.training.checkpoint_files import AtomicCheckpointIO
from freeflow_lightning.training.digests import key_of
from freeflow_lightning.training.finite import NonFiniteError
from freeflow_lightning.training.output_folder import (
    claim_names,
    finite_or_none,
    marked,
    read_listed,
    read_note,
)

NOTE, CHECKPOINT = "run.json", "last.ckpt"

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


class Place(NamedTuple):
    """The folder of one run, and the key of all that its figures depend on."""

    folder: Path
    key: str

    @classmethod
    def of(cls, root: Path, run: Run, facts: Mapping[str, Any]) -> "Place":
        """Return where a run goes: a change of anything in the facts leads to another folder."""
        key = key_of({**facts, "seed": run.seed, "rate": run.rate})
        name = f"{run.method}-rate{run.rate:g}-seed{run.seed}-{key[:8]}"
        return cls(root / "runs" / name, key)

    def read(self, run: Run) -> Run | None:
        """Return the run with its figures if it has ended; None otherwise."""
        note = read_note(self.folder / NOTE) or {}
        ended = note.get("key") == self.key and note.get("ended") is True
        if not ended or read_listed(self.folder / NOTE, "compare") is None:
            return None
        points = tuple(Point.of_json(point) for point in note["points"])
        return run._replace(points=points, failure=note["failure"])

    def write(self, run: Run, *, ended: bool) -> None:
        """Write the note of a run; before it begins, so that its checkpoint is known for ours."""
        content = {
            "key": self.key,
            "ended": ended,
            **run._asdict(),
            "points": [point.as_json() for point in run.points],
        }
        listed = dict.fromkeys([CHECKPOINT], "")
        write_json(self.folder / NOTE, finite_or_none(marked(content, "compare", listed)))


def run_contender(
    contender: Contender,
    run: Run,
    place: Place,
    budget: Budget,
    measure: Callable[[FlowMap], Figures],
    device: torch.device,
) -> Run:
    """Train a contender within the budget, from the last measurement of a run that was cut short.

    A run that diverges ends there, and its note says so.
    """
    claim_names(place.folder, NOTE, "compare", [CHECKPOINT])
    place.folder.mkdir(parents=True, exist_ok=True)
    place.write(run, ended=False)
    seed_everything(run.seed, verbose=False)
    module = contender.module(run.rate)

    def point(recipe: Distillation, spent: Spent) -> dict[str, Any]:
        with student_of(recipe) as student:
            return Point(*spent, figures=measure(student)).as_json()

    checkpoint = place.folder / CHECKPOINT
    training = BudgetedTraining(budget, point, Clock(device), checkpoint, contender.decay)
    trainer = trainer_of(contender, training, place.folder, device)
    found = checkpoint if checkpoint.is_file() else None
    failure = ""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
            trainer.fit(module, contender.data(run.seed), ckpt_path=found, weights_only=True)
    except NonFiniteError as error:
        failure = f"diverged at step {error.step}: {' '.join(str(error).split())}"
    except DivergedSamplesError as error:
        failure = f"diverged by step {trainer.global_step}: {error}"
    points = tuple(Point.of_json(point) for point in training.points)
    ended = run._replace(points=points, failure=failure)
    place.write(ended, ended=True)
    return ended


def trainer_of(
    contender: Contender, training: BudgetedTraining, folder: Path, device: torch.device
) -> Trainer:
    """Return the Trainer of one run: on one device, without validation, bars, loggers and files."""
    taken = {name: contender.settings.trainer.get(name) for name in OF_TRAINER}
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        max_steps=-1,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        log_every_n_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*contender.callbacks(), training],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        **taken,
    )
