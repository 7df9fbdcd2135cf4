"""SpikeGuard: a run whose residuals jump goes back to its last good checkpoint, and on with other
noise.
"""

import logging
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from freeflow_lightning.callbacks.checks import check_distillation, refuse_second
from freeflow_lightning.flow import check_counts, check_numbers
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.recipes.outputs import Step
from freeflow_lightning.training.checkpoint_damage import written_at
from freeflow_lightning.training.finite import copy_to_host
from freeflow_lightning.training.resumed_averages import match_averages
from freeflow_lightning.training.resuming import FoundCheckpoint, first_good
from freeflow_lightning.training.step_metrics import root_mean_square
from freeflow_lightning.training.trainer_facts import is_logged

log = logging.getLogger(__name__)


class SpikeError(RuntimeError):
    """A residual has jumped once more than a SpikeGuard may go back."""


@final
class SpikeGuard(Callback):
    """Looks at the norm of each residual, of every batch: where one exceeds `factor` times its
    median over the last batches, weights, optimizer and averages of the last good checkpoint come
    back.

    The run's step and batch numbers go on, and with them its noise: the batches that follow are not
    those that led to the jump, schedules stay where they are, and no step is logged twice. The
    steps since the checkpoint are lost. Where a checkpoint that was gone back to leads to another
    jump, the one before it is next, as long as there is one. A resumed run decides as the
    uninterrupted one.

    Args:
        factor: multiple of the running median that is a jump.
        window: batches of the median; none is judged before there are so many.
        rollbacks: how often it may go back; the next jump ends the run.
    """

    def __init__(self, factor: float = 10.0, window: int = 200, rollbacks: int = 3) -> None:
        check_numbers(1, without_low=True, factor=factor)
        check_counts(2, window=window)
        check_counts(1, rollbacks=rollbacks)
        self.factor = factor
        self.window = window
        self.rollbacks = rollbacks
        self.done = 0
        self._recent: dict[str, deque[float]] = {}
        self._noted: Any = None
        self._tried: set[tuple[Path, int]] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        module = check_distillation(pl_module, self, "watches residuals")
        refuse_second(trainer, self)
        module.step_watchers[type(self).__name__] = lambda step: self._note(module, step)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(pl_module, Distillation):
            pl_module.step_watchers.pop(type(self).__name__, None)

    def state_dict(self) -> dict[str, Any]:
        recent = {name: list(values) for name, values in self._recent.items()}
        return {"done": self.done, "recent": recent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.done = state_dict["done"]
        self._recent = {
            name: deque(values, self.window) for name, values in state_dict["recent"].items()
        }

    @torch.no_grad()
    def _note(self, module: Distillation, step: Step) -> None:
        """Send the norms of a batch, the mean over all processes, to the host."""
        norms = [root_mean_square(x).mean().float() for x in step.residuals.values()]
        values, _, wait = copy_to_host(module.mean_over_ranks(torch.stack(norms)))
        self._noted = list(step.residuals), values, wait

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Distillation, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._noted is not None and (jump := self._judge()):
            self._go_back(trainer, pl_module, jump)
        if is_logged(trainer, trainer.global_step):
            pl_module.log("guard/rollbacks", float(self.done))

    def _judge(self) -> str:
        """Return what has jumped, in words; empty where nothing has, and the batch then counts for
        the medians.
        """
        names, values, wait = self._noted
        self._noted = None
        wait()
        norms = dict(zip(names, values.tolist(), strict=True))
        for name, norm in norms.items():
            recent = self._recent.setdefault(name, deque(maxlen=self.window))
            usual = median(recent) if len(recent) == self.window else 0.0
            if 0 < usual < norm / self.factor:  # one that was exactly 0 has no size to jump from
                times = norm / usual
                return f"the {name} residual {norm:.3g} is {times:.1f} times its running median"
        for name, norm in norms.items():
            self._recent[name].append(norm)
        return ""

    def _go_back(self, trainer: Trainer, module: Distillation, jump: str) -> None:
        step = trainer.global_step
        if self.done == self.rollbacks:
            raise SpikeError(
                f"step {step}: {jump}, after {self.done} rollbacks: lower the learning rates, or "
                "clip gradients (--trainer.gradient_clip_val)"
            )
        path = trainer.strategy.broadcast(self._pick(trainer) if trainer.is_global_zero else None)
        if path is None:
            log.warning("step %d: %s; no checkpoint is written yet to go back to", step, jump)
            return
        self.done += 1
        of_step = restore(trainer, module, path)
        if trainer.is_global_zero:
            log.warning(
                "step %d: %s; weights, optimizer and averages are again those of step %d (%s), and "
                "noise goes on %d steps further (rollback %d of %d)",
                *(step, jump, of_step, path, step - of_step, self.done, self.rollbacks),
            )

    def _pick(self, trainer: Trainer) -> str | None:
        """Return the newest whole checkpoint of this run that was not gone back to before."""
        keepers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        folders = {Path(keeper.dirpath) for keeper in keepers if keeper.dirpath}
        paths = {path for folder in folders for path in folder.glob("*.ckpt")}
        newest_first = sorted(paths, key=written_at, reverse=True)
        fresh = [path for path in newest_first if (path, written_at(path)) not in self._tried]
        for candidates in (fresh, newest_first):
            found = first_good(candidates, trains=True)
            if isinstance(found, FoundCheckpoint):
                self._tried.add((found.path, written_at(found.path)))
                return str(found.path)
        return None


def restore(trainer: Trainer, module: Distillation, path: str) -> int:
    """Give a run the weights, averages and optimizer's state of a checkpoint, and nothing else:
    counts, schedules and learning rates stay. Every process has to call.

    Returns:
        The step of the checkpoint.
    """
    strategy = trainer.strategy
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]
    checkpoint = strategy.load_checkpoint(path)
    if "state_dict" in checkpoint:  # FSDP2 has loaded its shards by itself
        match_averages(module, checkpoint["state_dict"])
    strategy.load_model_state_dict(checkpoint, strict=True)
    strategy.load_optimizer_state_dict(checkpoint)
    for optimizer, lrs in zip(trainer.optimizers, rates, strict=True):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr
        optimizer.zero_grad()
    step: int = checkpoint["global_step"]
    return step
