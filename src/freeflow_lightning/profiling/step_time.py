"""A training step beside the bare evaluations that it needs: timed in turn, in one process, on the
same weights.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from freeflow_lightning.callbacks.averages import MovingAverages
from freeflow_lightning.profiling.clock import Clock
from freeflow_lightning.profiling.network_calls import NetworkCall, count_rows, record_calls
from freeflow_lightning.profiling.operations import MISSING
from freeflow_lightning.profiling.replace_attribute import replace_attribute
from freeflow_lightning.profiling.rounds import Round, mean_round, mean_rows
from freeflow_lightning.profiling.step_parts import Breakdown, Profile, Stopwatch, watch_parts
from freeflow_lightning.recipes.distillation import Distillation
from freeflow_lightning.training.data import PriorBatch

TAKEN_APART = 3
"""Logged steps under a stopwatch, at least."""


class SideBySide(Callback):
    """Rounds of (a step of the Trainer, the method in a plain loop, the bare evaluations), then
    logged steps taken apart.

    A step is everything from one batch to the next: drawing, training_step, backward, checks,
    optimizer, all callbacks and Lightning. The learning rates are 0 meanwhile, so that all three
    find the same weights. Where steps are of several kinds, whole turns of them are made.

    Args:
        clock: what times.
        rounds: how many, after `warmup` steps without a look at the clock; filled up to turns.
        warmup: at least 1; filled up as well.
        turn: steps after which their kinds repeat.
    """

    def __init__(self, clock: Clock, rounds: int, warmup: int = 2, turn: int = 1) -> None:
        if rounds < 1 or warmup < 1:
            raise ValueError(
                f"expected at least one round and one step of warmup, got {rounds} and {warmup}"
            )
        self.clock = clock
        self.turn = turn
        self.count = math.ceil(rounds / turn) * turn
        self.warmup = math.ceil(warmup / turn) * turn
        self.apart = TAKEN_APART + (-2 - TAKEN_APART) % turn  # the profiled step ends a turn
        self.rounds: list[Round] = []
        self.peak_memory = 0
        self.log_every = 0
        self.parts: dict[str, float] = {}
        self.breakdown: Breakdown | None = None
        self._flops_per_row: dict[tuple[str, str], float] = {}
        self._stopwatch = Stopwatch(clock.now)
        self._open: AbstractContextManager | None = None
        self._profile: Profile | None = None

    @property
    def steps(self) -> int:
        """For the Trainer to make: warmup, rounds, one that opens the loggers' files, those under a
        stopwatch, one profiled.
        """
        return self.warmup + self.count + 1 + self.apart + 2

    @property
    def turns(self) -> list[Round]:
        """The mean of each turn of rounds."""
        firsts = range(0, len(self.rounds), self.turn)
        return [mean_round(self.rounds[first : first + self.turn]) for first in firsts]

    @property
    def flops(self) -> float:
        """Floating-point operations of the average step's evaluations, backward included; a
        multiply-add counts two.
        """
        rows = mean_rows(self.rounds)
        return sum(
            self._flops_per_row[name, kind] * n
            for name, kinds in rows.items()
            for kind, n in kinds.items()
        )

    def on_train_start(self, trainer: Trainer, pl_module: Distillation) -> None:
        self.log_every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # as in recipe.is_logged
        trainer.log_every_n_steps = 0  # type: ignore[attr-defined]
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.0
        self._begin(pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Distillation, batch: PriorBatch, batch_idx: int
    ) -> None:
        if self._profile is not None and batch_idx == self.steps - 1:
            self.breakdown, self._profile = self._profile.stop(), None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: Distillation,
        outputs: Any,
        batch: PriorBatch,
        batch_idx: int,
    ) -> None:
        seconds = self.clock.now() - self._start
        made, place = self._made, batch_idx - self.warmup
        if place <= self.count:
            self._close()
        self._count_flops(trainer, made)
        if 0 <= place < self.count:
            self._note_memory(pl_module)
            self.rounds.append(
                self._round(trainer, pl_module, batch, seconds, made, method_first=place % 2 == 0)
            )
        if place == self.count - 1:
            trainer.log_every_n_steps = 1  # type: ignore[attr-defined]
        if place == self.count:
            self._open = watch_parts(trainer, pl_module, self._stopwatch.wrap)
            self._open.__enter__()
        if place == self.count + self.apart:
            self._close()
            self.parts = {
                part: seconds / self.apart for part, seconds in self._stopwatch.seconds.items()
            }
            self._profile = Profile(trainer, pl_module)
            self._profile.start()
        if place < self.count:
            self._begin(pl_module)

    def _begin(self, module: Distillation) -> None:
        self._open = record_calls(networks_of(module))
        self._made = self._open.__enter__()
        if self.clock.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.clock.device)
        self._start = self.clock.now()

    def _close(self) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None

    def _round(
        self,
        trainer: Trainer,
        module: Distillation,
        batch: PriorBatch,
        seconds: float,
        made: list[NetworkCall],
        method_first: bool,
    ) -> Round:
        optimizer, forward_context = trainer.optimizers[0], trainer.precision_plugin.forward_context

        def method() -> None:
            generator = batch.generator(trainer.global_rank, module.device)
            with forward_context():
                loss = module.loss(module.draw(batch.size, generator)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        def bare() -> None:
            with forward_context():
                outputs = [evaluation.again() for evaluation in made]
            optimizer.zero_grad()
            backward(
                [x for x, evaluation in zip(outputs, made, strict=True) if evaluation.has_gradient]
            )

        with without_averages(trainer):
            alone = self.clock(method) if method_first else 0.0
            evaluations = self.clock(bare)
            adam = self.clock(optimizer.step)
            alone = alone if method_first else self.clock(method)
        return Round(seconds, alone, evaluations, adam, count_rows(made))

    def _count_flops(self, trainer: Trainer, made: list[NetworkCall]) -> None:
        """Of each kind of evaluation once: not every step of every recipe makes all of them."""
        for evaluation in made:
            if (evaluation.network, evaluation.kind) in self._flops_per_row:
                continue
            with (
                FlopCounterMode(display=False, custom_mapping=MISSING) as counter,
                torch.compiler.set_stance("force_eager"),
            ):
                with trainer.precision_plugin.forward_context():
                    output = evaluation.again()
                if evaluation.has_gradient:
                    backward([output])
            self._flops_per_row[evaluation.network, evaluation.kind] = (
                counter.get_total_flops() / evaluation.rows
            )

    def _note_memory(self, module: Distillation) -> None:
        if self.clock.device.type == "cuda":
            self.peak_memory = max(
                self.peak_memory, torch.cuda.max_memory_allocated(self.clock.device)
            )


@contextmanager
def without_averages(trainer: Trainer) -> Iterator[None]:
    """Let steps of the optimizer leave the averages alone: those of the Trainer's step count."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning, undeclared
    with ExitStack() as stack:
        for callback in callbacks:
            if isinstance(callback, MovingAverages):
                stack.enter_context(replace_attribute(callback, "update", lambda step: None))
        yield


def backward(outputs: Sequence[Tensor]) -> None:
    """The gradients of the outputs' sums."""
    torch.autograd.backward(list(outputs), [torch.ones_like(x) for x in outputs])


def networks_of(module: Distillation) -> dict[str, nn.Module]:
    """Return what is evaluated in a step, by name; an adapter sits in the teacher, so the networks
    in training come first.
    """
    return {**module.networks(), "teacher": module.teacher}
