"""The line that `freeflow fit` ends with: the run's folder, its last checkpoint, its best figure,
and what to do next.
"""

import os
from pathlib import Path
from shlex import quote

from lightning.pytorch import Trainer

from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.training.last_file import model_checkpoints
from freeflow_lightning.training.last_step import LastStep
from freeflow_lightning.training.run_loggers import read_metrics

MEASURED = ("fid/student", "error/endpoint")
"""Figures of validations, the smaller the better; the first that a run has measured is named."""


def closing_line(trainer: Trainer, run: Path) -> str:
    """Return what a finished run has left, in one line."""
    if not trainer.global_step:
        return f"{run}: nothing was trained: trainer.max_steps or another limit is 0"
    parts = [
        f"{run}: step {trainer.global_step}, {last_checkpoint_of(trainer)}",
        *best_figure(trainer, run),
    ]
    if isinstance(trainer.lightning_module, Distillation):
        parts.append(f"next: freeflow report {quote(str(run))}")
    return "; ".join(parts)


def last_checkpoint_of(trainer: Trainer) -> str:
    """Return the file that the last step is in."""
    paths = [
        callback.path for callback in trainer.checkpoint_callbacks if isinstance(callback, LastStep)
    ]
    return os.path.relpath(paths[0]) if paths and paths[0] else "no checkpoint written"


def best_figure(trainer: Trainer, run: Path) -> list[str]:
    """Return the best figure, with the checkpoint that was chosen by it or the step it was measured
    at; nothing without any.
    """
    for keeper in model_checkpoints(trainer):
        if keeper.monitor and keeper.best_model_score is not None:
            return [
                f"best {keeper.monitor} {float(keeper.best_model_score):.4g} in "
                f"{Path(keeper.best_model_path).name}"
            ]
    rows = read_metrics(run / "metrics.csv")
    for name in MEASURED:
        measured = [(row[name], row["step"]) for row in rows if name in row]
        if measured:
            figure, step = min(measured)
            return [f"best {name} {figure:.4g} after step {step + 1}"]
    return []
