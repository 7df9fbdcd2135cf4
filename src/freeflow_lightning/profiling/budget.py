"""A training run that ends when its budget is spent: counted evaluations, seconds, or steps."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer

from freeflow_lightning.flow import falling_rate, training_generator
from freeflow_lightning.profiling.call_counter import CallCounter
from freeflow_lightning.profiling.clock import Clock
from freeflow_lightning.profiling.step_time import networks_of
from freeflow_lightning.recipes.distillation import Distillation

Unit = Literal["evaluations", "seconds", "steps"]

PROBED_STEPS = 8
"""Of each stage, at least."""


class Budget(NamedTuple):
    """What every run may spend, and how often its student is measured meanwhile.

    Args:
        unit: "evaluations" in forward passes of one sample, by `CallCounter`; "seconds"; or
            optimizer "steps".
        amount: how many.
        points: measurements, at equal parts of the amount; the last is at its end.
    """

    unit: Unit
    amount: float
    points: int


class Spent(NamedTuple):
    """What a run has spent: optimizer steps, forward passes by network, and seconds of training."""

    steps: int
    evaluations: dict[str, float]
    seconds: float


class BudgetedTraining(Callback):
    """Stops the run after the step in which its budget is spent, and measures it on the way.

    After each measurement the run is saved with it, and can go on from there. Neither measuring nor
    saving counts.

    Args:
        budget: of the run.
        measure: told the recipe and what it has spent; its plain values are kept in `points`.
        clock: for the seconds.
        checkpoint: where the run is saved.
        decay: share of the budget over whose end the learning rates fall along half a cosine to 0.
    """

    def __init__(
        self,
        budget: Budget,
        measure: Callable[[Distillation, Spent], Any],
        clock: Clock,
        checkpoint: Path,
        decay: float = 0.0,
    ) -> None:
        self.budget = budget
        self.measure = measure
        self.clock = clock
        self.checkpoint = checkpoint
        self.decay = decay
        self.points: list[Any] = []
        self.counter = CallCounter()
        self.seconds = 0.0
        self._last_step = 0
        self._watching = ExitStack()

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points, "rows": deepcopy(self.counter.rows), "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.points, self.counter.rows = list(state["points"]), deepcopy(state["rows"])
        self.seconds = state["seconds"]

    @property
    def spent(self) -> float:
        """So far, in the budget's unit."""
        amounts = {
            "evaluations": self.counter.total,
            "seconds": self.seconds,
            "steps": self._last_step,
        }
        return amounts[self.budget.unit]

    @property
    def _is_spent(self) -> bool:
        return self.spent >= self.budget.amount

    def on_train_start(self, trainer: Trainer, pl_module: Distillation) -> None:
        self._last_step = trainer.global_step
        self._watching.enter_context(self.counter.watch(networks_of(pl_module)))
        trainer.should_stop = self._is_spent  # a run that was cut after its last measurement

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Distillation, batch: Any, batch_idx: int
    ) -> None:
        if self.decay:
            factor = falling_rate(self.spent / self.budget.amount, 1.0, self.decay)
            scale_rates(trainer.optimizers[0], factor)
        self.counter.is_on = True
        self._started = self.clock.now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Distillation, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.counter.is_on = False
        self.seconds += self.clock.now() - self._started
        if trainer.global_step == self._last_step:  # in the middle of an accumulated gradient
            return
        self._last_step = trainer.global_step
        if self.spent >= self.budget.amount * (len(self.points) + 1) / self.budget.points:
            spent = Spent(trainer.global_step, self.counter.evaluations, self.seconds)
            self.points.append(self.measure(pl_module, spent))
            trainer.save_checkpoint(self.checkpoint)
        trainer.should_stop = self._is_spent

    def teardown(self, trainer: Trainer, pl_module: Distillation, stage: str) -> None:
        self._watching.close()


def evaluations_of_run(module: Distillation, batch_size: int, steps: int, seed: int = 0) -> float:
    """Forward passes of a run of so many steps: those of a few are counted, of each stage and of
    whole turns, and nothing of them is kept.
    """
    turn = module.steady_steps
    early = min(turn.start, steps)
    turns = math.ceil(PROBED_STEPS / len(turn))
    late = range(turn.start, turn.start + turns * len(turn))
    total = (steps - early) * _evaluations_per_step(module, batch_size, late, seed)
    if early:
        first = range(min(PROBED_STEPS, early))
        total += early * _evaluations_per_step(module, batch_size, first, seed)
    return total


def _evaluations_per_step(module: Distillation, size: int, steps: range, seed: int) -> float:
    counter = CallCounter()
    with counter.watch(networks_of(module)):
        for step in steps:
            module.begin_step(step)
            draw = module.draw(size, training_generator(seed, 0, step, module.device))
            counter.is_on = True
            module.loss(draw)
            counter.is_on = False
    return counter.total / len(steps)


def scale_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every group to a multiple of the one that it started with."""
    for group in optimizer.param_groups:
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
