"""One run of a contender: trained within a budget in a folder of its own, or read from there."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer, seed_everything

from freeflow_lightning.commands.contender import OF_TRAINER, Contender
from freeflow_lightning.evaluation.methods import Figures, Point, Run
from freeflow_lightning.evaluation.yardstick import student_of
from freeflow_lightning.metrics.images import DivergedSamplesError
from freeflow_lightning.profiling.budget import Budget, BudgetedTraining, Spent
from freeflow_lightning.profiling.clock import Clock
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.students.flow_map import FlowMap
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
