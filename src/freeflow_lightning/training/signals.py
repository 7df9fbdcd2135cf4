"""SIGTERM and Ctrl-C in a run: remembered where they come, obeyed where all processes agree."""

import signal
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Stopped(SystemExit):
    """A signal has ended the run between two steps.

    The exit code is 128 plus the signal's number, as shells report it: 143 for SIGTERM, 130 for
    Ctrl-C.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal_name = NAMES[signal.Signals(number)]


class ReceivedSignal:
    """A signal handler that remembers the number of the signal; 0 as long as none has come.

    >>> received = ReceivedSignal()
    >>> received(15, None)
    >>> received.number
    15
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, frame: Any) -> None:
        self.number = number

    def of_any_process(self, trainer: Trainer) -> int:
        """Return the number of a signal that any process has received, the same on all: every
        process has to ask.
        """
        if trainer.world_size == 1:
            return self.number
        mine = torch.tensor(self.number, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(mine, reduce_op="max"))


class SignalConnector(_SignalConnector):
    """Lightning's, with handlers of ours for SIGTERM and Ctrl-C.

    Lightning's handler of SIGTERM broadcasts from inside, wherever the signal meets each process,
    so that processes wait for each other for ever; without SLURM it saves nothing and ends with
    exit code 0.

    A process that trains by itself stops at once where it is not in a training step: in a
    validation, or while the first one is prepared. Everywhere else LastStep looks at `received`
    between two steps. A second Ctrl-C is Python's own.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.received = ReceivedSignal()
        self.training_has_begun = False
        self.is_ending = False

    def register_signal_handlers(self) -> None:
        super().register_signal_handlers()
        for number in NAMES:
            self._register_signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        others = self._original_handlers.get(number)  # the user's own handler
        if callable(others) and others is not signal.default_int_handler:
            others(number, frame)
        self.received(number, frame)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        is_in_step = self.training_has_begun and not self.trainer.validating
        if self.trainer.world_size == 1 and not is_in_step and not self.is_ending:
            self.stop(number)

    def stop(self, number: int) -> None:
        """End the run (Raises: Stopped)."""
        self.is_ending = True
        raise Stopped(number)
