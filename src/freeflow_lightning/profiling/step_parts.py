"""Where a training step's time goes: torch.profiler's events, by what they are for."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from freeflow_lightning.callbacks.averages import MovingAverages
from freeflow_lightning.profiling.network_calls import intercept_calls
from freeflow_lightning.profiling.replace_attribute import replace_attribute
from freeflow_lightning.recipes.distillation import Distillation

MARK = "freeflow: "
LOSS, CHECKS, LOGGING, EMA, ADAM = (
    "loss terms",
    "gradient norms, checks",
    "logging",
    "EMA",
    "optimizer",
)
PARTS = ("student", "auxiliary", "teacher", LOSS, "noise", CHECKS, ADAM, EMA, LOGGING)


Wrap = Callable[[str, Callable[..., Any]], Callable[..., Any]]
"""(part, function) to the function with something around it."""


class Breakdown(NamedTuple):
    """One profiled and logged step.

    Args:
        seconds: part of the step: what it took, its children's parts not counted; forward and
            backward of a network together.
        rest: seconds of the step in no part: Lightning, other callbacks, the profiler itself.
        peak: most bytes alive at once: weights, averages, optimizer, gradients, and what the step
            allocated; on a CPU.
    """

    seconds: dict[str, float]
    rest: float
    peak: int | None


class Profile:
    """Profiles what a Trainer does between `start` and `stop`.

    Args:
        trainer: with its callbacks and loggers.
        module: what it trains.
    """

    def __init__(self, trainer: Trainer, module: Distillation) -> None:
        self.trainer = trainer
        self.module = module
        self._context = ExitStack()

    def start(self) -> None:
        """Begin; kineto, which tells of its starts and of GPUs that are not there, is quiet."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        self._context.enter_context(watch_parts(self.trainer, self.module, _name_to_profiler))
        cuda = [ProfilerActivity.CUDA] if self.module.device.type == "cuda" else []
        self.device_time = bool(cuda)
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *cuda], profile_memory=not cuda, acc_events=True
        )
        self._context.enter_context(self._profile)
        self._context.enter_context(record_function(f"{MARK}whole"))
        self._standing = standing_memory(self.trainer, self.module)

    def stop(self) -> Breakdown:
        """End, and sort the events."""
        if self.device_time:
            torch.accelerator.synchronize(self.module.device)
        self._context.close()
        events = list(self._profile.events() or [])
        seconds = sum_exclusive(events, self.device_time)
        rest = seconds.pop("whole", 0.0)
        return Breakdown(
            {part: seconds.get(part, 0.0) for part in PARTS},
            rest,
            None if self.device_time else self._standing + self._peak(),
        )

    def _peak(self) -> int:
        raw: Any = self._profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        alive = peak = 0
        for _, size in sorted((e.start_ns(), e.nbytes()) for e in raw if e.name() == "[memory]"):
            alive += size
            peak = max(peak, alive)
        return peak


def standing_memory(trainer: Trainer, module: Distillation) -> int:
    """Bytes alive between two steps."""
    weights = [tensor for owned in module.tensors_by_network().values() for tensor in owned]
    gradients = [p.grad for p in weights if p.grad is not None]
    states = [
        x
        for state in trainer.optimizers[0].state.values()
        for x in state.values()
        if isinstance(x, torch.Tensor)
    ]
    return sum(tensor.nbytes for tensor in [*weights, *gradients, *states])


class Stopwatch:
    """Seconds by part of a step, without the profiler; those of inner parts are not counted twice.

    >>> ticks = iter(range(10))
    >>> watch = Stopwatch(lambda: next(ticks))
    >>> inner = watch.wrap("inner", lambda: None)
    >>> watch.wrap("outer", inner)(), watch.seconds
    (None, {'inner': 1, 'outer': 2})
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds = dict[str, float]()
        self._inner = [0.0]

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def run(*arguments: Any, **keywords: Any) -> Any:
            start = self.now()
            self._inner.append(0)
            try:
                return function(*arguments, **keywords)
            finally:
                spent = self.now() - start
                self.seconds[part] = self.seconds.get(part, 0) + spent - self._inner.pop()
                self._inner[-1] += spent

        return run


def _name_to_profiler(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, named to the profiler."""

    def run(*arguments: Any, **keywords: Any) -> Any:
        with record_function(MARK + part):
            return function(*arguments, **keywords)

    return run


@contextmanager
def watch_parts(trainer: Trainer, module: Distillation, wrap: Wrap) -> Iterator[None]:
    """Let the parts of a step pass through `wrap`."""

    def around(
        name: str,
        network: nn.Module,
        call: Callable[..., Any],
        arguments: tuple,
        keywords: dict[str, Any],
    ) -> Any:
        return wrap(name, call)(*arguments, **keywords)

    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning, undeclared
    averaging = [callback for callback in callbacks if isinstance(callback, MovingAverages)]
    parts = [
        (module, "training_step", LOSS),
        (module, "draw", "noise"),
        (module, "check_finite", CHECKS),
        (module, "configure_gradient_clipping", CHECKS),
        (module, "_log", LOGGING),
        (module, "log_dict", LOGGING),
        *((callback, "update", EMA) for callback in averaging),
        *((logger, "log_metrics", LOGGING) for logger in trainer.loggers),
        (trainer.optimizers[0], "step", ADAM),
    ]
    with ExitStack() as patches:
        for owner, name, part in parts:
            patches.enter_context(replace_attribute(owner, name, wrap(part, getattr(owner, name))))
        patches.enter_context(
            intercept_calls({**module.networks(), "teacher": module.teacher}, around)
        )
        yield


def sum_exclusive(events: list[FunctionEvent], device_time: bool) -> dict[str, float]:
    """Seconds by part: each event of a part counts with its time less that of the parts inside it.

    A backward node belongs to the network whose forward operation made it (they share a sequence
    number), or else to the loss terms.
    """
    maker = {}
    for event in sorted(events, key=lambda e: e.time_range.start):
        # a backward operation knows the thread of its forward one
        if event.sequence_nr >= 0 and not event.fwd_thread:
            maker[event.sequence_nr] = _network_of(event)
    seconds: dict[str, float] = {}
    for event in events:
        part = _part(event, maker)
        if part is None:
            continue
        time = (event.device_time_total if device_time else event.cpu_time_total) * 1e-6
        seconds[part] = seconds.get(part, 0.0) + time
        outer = event.cpu_parent
        while outer is not None and (around := _part(outer, maker)) is None:
            outer = outer.cpu_parent
        if outer is not None and around is not None:
            seconds[around] = seconds.get(around, 0.0) - time
    return seconds


def _is_backward(event: FunctionEvent) -> bool:
    return event.name.startswith("autograd::engine::evaluate_function")


def _part(event: FunctionEvent, maker: dict[int, str]) -> str | None:
    if event.name.startswith(MARK):
        return event.name.removeprefix(MARK)
    if _is_backward(event):
        return maker.get(event.sequence_nr, LOSS)
    return None


def _network_of(event: FunctionEvent) -> str:
    """Return the innermost part that a forward operation was called in."""
    outer = event.cpu_parent
    while outer is not None and not outer.name.startswith(MARK):
        outer = outer.cpu_parent
    part = outer.name.removeprefix(MARK) if outer is not None else LOSS
    return LOSS if part == "whole" else part
