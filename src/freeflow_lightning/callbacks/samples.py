"""SampleGrid: teacher and student for the same noise and classes, as PNG and in the loggers."""

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger, TensorBoardLogger
from torch import Tensor

from freeflow_lightning.callbacks.checks import refuse_second
from freeflow_lightning.flow import check_counts, one_step_rule
from freeflow_lightning.metrics.class_names import class_names
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.sampling import plots
from freeflow_lightning.sampling.draw import pictures
from freeflow_lightning.sampling.picture_rows import caption_classes, picture_rows
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.training.run_folder import folder_of


class SampleGrid(Callback):
    """Writes samples/step_N.png at the start of training and at each validation.

    The upper row is the teacher's many-step sample, the lower one the recipe's, from the same
    noise; column k shows class k modulo the number of classes. Two-dimensional states become a
    scatter plot.

    Args:
        count: columns (points of a scatter plot).
        method: the teacher's one-step rule.
        steps: the teacher's steps.
        seed: seed of the noise.
    """

    def __init__(
        self, count: int = 10, method: str = "heun", steps: int = 64, seed: int = 0
    ) -> None:
        check_counts(1, count=count, steps=steps)
        check_counts(-math.inf, seed=seed)
        one_step_rule(method)
        self.count = count
        self.method = method
        self.steps = steps
        self.seed = seed
        self._teacher_samples: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        refuse_second(trainer, self)

    def on_train_start(self, trainer: Trainer, pl_module: Recipe) -> None:
        self.draw(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Recipe) -> None:
        if not trainer.sanity_checking:
            self.draw(trainer, pl_module)

    @torch.no_grad()
    def draw(self, trainer: Trainer, pl_module: Recipe) -> None:
        """Draw, on every rank (sharded networks need all of them), and write, on the first."""
        teacher, index = pl_module.teacher, torch.arange(self.count)
        z, condition = teacher.draw_indexed(
            index, seed=self.seed, stream="grid", device=pl_module.device
        )
        classes = index % teacher.num_classes if teacher.num_classes else None
        if classes is not None:
            condition = teacher.conditions.of_classes(classes.to(pl_module.device))
        sampler = TeacherSampler(teacher, self.method, self.steps, pl_module.evaluation_guidance)
        if self._teacher_samples is None:
            self._teacher_samples = pictures(teacher, sampler(z, condition)).cpu()
        drawn = pictures(teacher, pl_module.generate(z, condition)).cpu()
        folder = folder_of(trainer)
        if not trainer.is_global_zero or folder is None:
            return
        both = {sampler.name: self._teacher_samples, pl_module.sampling: drawn}
        title = f"step {trainer.global_step}"
        names = class_names(drawn.shape[1:], teacher.num_classes)
        captions = caption_classes(None if classes is None else classes.tolist(), names)
        figure = (
            picture_rows(both, title, captions) if drawn.ndim == 4 else plots.points(both, title)
        )
        for logger in trainer.loggers:
            log_picture(logger, "samples", plots.pixels(figure), trainer.global_step)
        plots.save(figure, folder / "samples" / f"step_{trainer.global_step:07d}.png")


@runtime_checkable
class TakesImages(Protocol):
    """A logger with Lightning's method for pictures, which WandbLogger and others have."""

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """Log pictures [height, width, 3] under a name."""


def log_picture(logger: Logger, name: str, picture: np.ndarray, step: int) -> None:
    """Give a picture, uint8 [height, width, 3], to a logger, where it can take one."""
    match logger:
        case TensorBoardLogger():
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        case MLFlowLogger():
            file = f"{name}/step_{step:07d}.png"
            logger.experiment.log_image(logger.run_id, picture, artifact_file=file)
        case CometLogger():
            logger.experiment.log_image(picture, name=name, step=step)
        case TakesImages():
            logger.log_image(name, [picture], step)
