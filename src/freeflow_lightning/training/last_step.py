"""LastStep: however a run ends, `last` holds its last step."""

import logging
import os
from shlex import quote
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerFn

from freeflow_lightning.training.data import IndexRange
from freeflow_lightning.training.last_file import (
    holds_step,
    is_same_file,
    last_path,
    model_checkpoints,
)
from freeflow_lightning.training.loop_progress import Progress, progress_of
from freeflow_lightning.training.signals import SignalConnector, Stopped
from freeflow_lightning.training.unfinished_validation import LOOPS_AS_SAVED, PENDING
from freeflow_lightning.training.weights_after_error import may_save_after

log = logging.getLogger(__name__)


class LastStep(Checkpoint):
    """Writes last.ckpt when a run ends and no ModelCheckpoint has written its last step.

    A run ends at max_steps, max_epochs or max_time, by SIGTERM or Ctrl-C (all processes agree
    between two steps; exit codes 143 and 130), or by an error. After an error the first process
    writes by itself, as the others may be gone. Nothing is written then where weights are sharded,
    where the error met an update of the weights, or where numbers have not been finite for longer
    than a step. Every Recipe brings this callback along; a Trainer that writes no checkpoints
    (enable_checkpointing=False, fast_dev_run) writes none here.
    """

    def __init__(self) -> None:
        self.path = ""
        """The file that was loaded, and once the run has ended that of its last step; empty where
        there is none.
        """
        self._signals: SignalConnector | None = None
        self._forget()

    def _forget(self) -> None:
        """Start anew: a Trainer may run again."""
        self._agreed_signal = 0
        self._start_step: int | None = None
        self._progress: Progress | None = None
        self._unvalidated: list[str] = []
        """Checkpoints that were written before their step's validation."""
        self._has_candidates = False
        """For the best checkpoint, from a validation that has ended."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._forget()
        self._signals = SignalConnector(trainer)
        trainer._signal_connector = self._signals

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.path = str(trainer.ckpt_path or "")
        if LOOPS_AS_SAVED in checkpoint:
            self._progress = Progress(
                checkpoint["global_step"], checkpoint["epoch"], checkpoint[LOOPS_AS_SAVED]
            )

    # Between two steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_step = trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._stop_if_agreed()
        self._connector.training_has_begun = True
        epochs: Any = trainer.fit_loop.epoch_progress
        # Lightning does not count the epoch after an end that it resumes at
        for count in (epochs.total, epochs.current):
            count.ready = count.started = count.processed + 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_accumulating = trainer.global_step == (
            self._progress.step if self._progress else self._start_step
        )
        if not is_accumulating:
            self._progress = progress_of(trainer)
            self._agree(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agree(trainer)
        self._stop_if_agreed()  # the figures of the step are written by now
        self._unvalidated = self._checkpoints_of_step(trainer)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(trainer.val_dataloaders, IndexRange):  # every process has as many batches
            self._agree(trainer)
            self._stop_if_agreed()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._has_candidates = True
        is_end_of_epoch = trainer.should_stop or trainer.fit_loop.epoch_loop._is_training_done
        if not is_end_of_epoch:
            self._write_again(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # the best checkpoint is written here where the epoch ends with a validation
        self._write_again(trainer)

    def _write_again(self, trainer: Trainer) -> None:
        """Let the checkpoints of this step know that it is validated, and the best candidates that
        this gave.
        """
        self._has_candidates = False
        for path in self._unvalidated:
            self._write(trainer, path)
            trainer.strategy.barrier("LastStep")
        self._unvalidated = []

    @property
    def _connector(self) -> SignalConnector:
        assert self._signals is not None  # `setup` has seen to it
        return self._signals

    def _agree(self, trainer: Trainer) -> None:
        self._agreed_signal = self._connector.received.of_any_process(trainer)

    def _stop_if_agreed(self) -> None:
        if self._agreed_signal:
            self._connector.stop(self._agreed_signal)

    def _checkpoints_of_step(self, trainer: Trainer) -> list[str]:
        """Files from which this step's validation would be repeated on resuming."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return []
        keepers = [
            keeper
            for keeper in model_checkpoints(trainer)
            if holds_step(keeper, trainer.global_step)
        ]
        paths = [keeper._last_checkpoint_saved for keeper in keepers]
        homes = [os.path.abspath(str(keeper.dirpath)) for keeper in model_checkpoints(trainer)]
        if (
            self._start_step == trainer.global_step
            and os.path.dirname(os.path.abspath(self.path)) in homes
        ):
            paths.append(self.path)
        return paths

    # When the run ends

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._has_trained(trainer):
            keepers = model_checkpoints(trainer)
            self.path = self._write_last(
                trainer, weights_only=all(keeper.save_weights_only for keeper in keepers)
            )
            trainer.strategy.barrier("LastStep")
        self._agree(trainer)
        self._stop_if_agreed()  # whoever trains again after this run does not

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if self._signals is not None:
            self._signals.is_ending = True
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher) and not isinstance(
            exception, KeyboardInterrupt
        ):
            launcher.procs.clear()  # Lightning kills this process within seconds of another one's end
        if self._has_trained(trainer) and may_save_after(trainer, exception):
            self._try_to_write_last(trainer, exception)
        if isinstance(exception, Stopped) and trainer.is_global_zero:
            advice = (
                f"go on with --ckpt_path {quote(self.path)}"
                if self.path
                else "no step of it is saved"
            )
            log.warning(
                "%s: stopped after step %d; %s", exception.signal_name, trainer.global_step, advice
            )

    def _has_trained(self, trainer: Trainer) -> bool:
        """Return whether there is a step to save, and a place for it."""
        is_trial: int = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by Lightning, undeclared
        is_writing = bool(model_checkpoints(trainer)) and not is_trial
        return (
            is_writing and self._start_step is not None and trainer.global_step > self._start_step
        )

    def _try_to_write_last(self, trainer: Trainer, exception: BaseException) -> None:
        """Write the last step; where that fails, the error that ended the run is still what
        counts.
        """
        is_agreed = isinstance(exception, Stopped)
        try:
            self.path = self._write_last(trainer, is_alone=not is_agreed)
        except Exception as error:
            log.warning("the last step, %d, could not be saved: %s", trainer.global_step, error)
        else:
            if not is_agreed:
                log.warning("the last step, %d, is saved in %s", trainer.global_step, self.path)

    def _write_last(
        self, trainer: Trainer, *, weights_only: bool = False, is_alone: bool = False
    ) -> str:
        """Return the file that holds the last step, written if there is none."""
        path = last_path(trainer)
        is_there = os.path.exists(path)
        if not is_alone:
            is_there = trainer.strategy.broadcast(is_there)
        for keeper in model_checkpoints(trainer):
            saved = keeper._last_checkpoint_saved
            is_last = not is_there or is_same_file(saved, path)
            if is_last and holds_step(keeper, trainer.global_step, weights_only):
                return saved
        if trainer.is_global_zero and os.path.islink(path):
            os.unlink(path)  # save_last="link": not the best checkpoint that it points to
        self._write(trainer, path, weights_only=weights_only)
        return path

    def _write(self, trainer: Trainer, path: str, *, weights_only: bool = False) -> None:
        """Write a checkpoint with the progress of the loops as it was at the end of the last
        step.
        """
        progress = self._progress
        # an error at the very end of the step
        if progress is None or progress.step != trainer.global_step:
            progress = progress_of(trainer)
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only)
        checkpoint["epoch"] = progress.epoch
        checkpoint["loops"]["fit_loop"] = progress.loops
        if self._has_candidates:
            checkpoint[PENDING] = True  # an error has come before the best checkpoint
        trainer.strategy.save_checkpoint(checkpoint, path)
