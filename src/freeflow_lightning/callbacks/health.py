"""HealthMonitor: says in words when the logged figures show that a run goes wrong."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from freeflow_lightning.callbacks.checks import check_distillation, refuse_second
from freeflow_lightning.flow import check_counts, check_numbers
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.outputs import ValidationBatch
from freeflow_lightning.sampling.teacher_sampler import TeacherSampler
from freeflow_lightning.training.data import validation_range
from freeflow_lightning.training.trainer_facts import is_logged

log = logging.getLogger(__name__)


def grows(history: list[float], factor: float, window: int) -> bool:
    """Return whether the mean of the last `window` values exceeds `factor` times the lowest mean of
    a window before it.

    >>> grows([1.0, 1.0, 3.0, 3.0], factor=2.0, window=2), grows([3.0, 3.0, 1.0, 1.0], factor=2.0, window=2)
    (True, False)
    """
    if len(history) < 2 * window:
        return False
    means = [sum(history[k : k + window]) / window for k in range(0, len(history) - window + 1)]
    return means[-1] > factor * min(means[: len(history) - 2 * window + 1])


class HealthMonitor(Callback):
    """Warns, once per cause, about growing residuals and gradients, a lagging auxiliary network and
    samples that draw together.

    At each validation it logs "health/spread": the spread of the student's samples over that of
    the teacher's for the same noise and conditions (1 is right; below `least_spread` modes are
    being lost). Non-finite numbers stop every recipe by themselves; this callback is about the
    finite ones. Its memory starts anew after a restart.

    Args:
        factor: growth over the run's best window that counts as wrong.
        window: logged values per window.
        least_spread: spread under which it warns.
        count: samples of the comparison, the first ones of the validation.
        steps: the teacher's Heun steps for them.
    """

    def __init__(
        self,
        factor: float = 3.0,
        window: int = 10,
        least_spread: float = 0.8,
        count: int = 256,
        steps: int = 16,
    ) -> None:
        check_numbers(1, without_low=True, factor=factor)
        check_numbers(0, least_spread=least_spread)
        check_counts(1, window=window, steps=steps)
        check_counts(2, count=count)
        self.factor = factor
        self.window = window
        self.least_spread = least_spread
        self.count = count
        self.steps = steps
        self._history: dict[str, list[float]] = {}
        self._warned: set[str] = set()
        self._seen = 0
        self._spread: float | None = None
        self._samples: list[torch.Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_distillation(pl_module, self, "watches a distillation")
        refuse_second(trainer, self)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Distillation, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._seen or not is_logged(trainer, trainer.global_step):
            return  # not logged, or logged before this batch of an accumulated step
        self._seen = trainer.global_step
        for name, advice in pl_module.advice.items():
            if name in trainer.callback_metrics:
                history = self._history.setdefault(name, [])
                history.append(float(trainer.callback_metrics[name]))
                if grows(history, self.factor, self.window):
                    self._warn(name, f"step {trainer.global_step}: {advice}", trainer)

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Distillation,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        evaluation: ValidationBatch = outputs
        if sum(map(len, self._samples)) < self.count:
            # a rank's last batch may be padded
            keep = (batch.indices < batch.total).to(evaluation.samples.device)
            self._samples.append(evaluation.samples[keep].float())

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Distillation) -> None:
        samples, self._samples = torch.cat(self._samples)[: self.count], []
        if trainer.sanity_checking:
            return
        if len(samples) < 2:
            raise ValueError(
                "HealthMonitor compares at least 2 validation samples of each process, "
                f"got {len(samples)}: raise data.val_samples, or remove the callback"
            )
        if self._spread is None:
            place = torch.arange(len(samples)) * trainer.world_size + trainer.global_rank
            seed, device = validation_range(trainer).seed, pl_module.device
            z, condition = pl_module.teacher.draw_indexed(
                place, seed=seed, stream="validation", device=device
            )
            sampler = TeacherSampler(
                pl_module.teacher, "heun", self.steps, pl_module.evaluation_guidance
            )
            self._spread = measure_spread(sampler(z, condition))
        ratio = measure_spread(samples) / self._spread
        pl_module.log("health/spread", ratio, sync_dist=True, batch_size=1)
        untrained = trainer.state.fn == TrainerFn.FITTING and trainer.global_step == 0
        if ratio < self.least_spread and not untrained:
            advice = (
                f"the student's samples spread less than the teacher's: {pl_module.spread_advice}"
            )
            self._warn(
                "spread",
                f"step {trainer.global_step}: {advice} ({ratio:.2f} of the teacher's)",
                trainer,
            )

    def _warn(self, cause: str, text: str, trainer: Trainer) -> None:
        if cause not in self._warned and trainer.is_global_zero:
            self._warned.add(cause)
            log.warning(text)


def measure_spread(samples: torch.Tensor) -> float:
    """Root of the mean variance per element, a scalar: how far samples [N, ...] are from their
    mean.
    """
    return float(samples.flatten(1).var(0).mean().sqrt())
