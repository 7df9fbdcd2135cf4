"""Requeue: a SLURM job whose time runs out saves, puts itself in the queue again and goes on where
it stopped.
"""

import logging
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from freeflow_lightning.flow import check_counts
from freeflow_lightning.training.run_folder import job_file
from freeflow_lightning.training.signals import ReceivedSignal

log = logging.getLogger(__name__)


class Requeue(Callback):
    """On SLURM's signal (sbatch --signal=SIGUSR1@180) saves checkpoints/requeue.ckpt and requeues
    the job.

    All processes agree between two steps, after the averages' update, and save together;
    Lightning's own handler saves wherever the signal meets each process, in the middle of a step.
    `freeflow fit` adds this callback under SLURM and finds the checkpoint when the job starts
    again. Outside of SLURM, or with SLURMEnvironment(auto_requeue=False), it does nothing.

    Args:
        every_n_steps: optimizer steps between two looks at whether the signal has come.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        check_counts(1, every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self._received = ReceivedSignal()
        self._done = False
        self._seen = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        environment = trainer._accelerator_connector.cluster_environment
        if (
            stage == "fit"
            and isinstance(environment, SLURMEnvironment)
            and environment.auto_requeue
        ):
            number = environment.requeue_signal or signal.SIGUSR1
            signal.signal(number, self._received)  # before Lightning's, which leaves it alone
            folder = Path(trainer.log_dir or trainer.default_root_dir)
            if trainer.is_global_zero:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / job_file()).touch()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._seen or trainer.global_step % self.every_n_steps:
            return  # gradients are still being accumulated, or not the time to look
        self._seen = trainer.global_step
        if self._received.of_any_process(trainer):
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
            trainer.save_checkpoint(folder / "requeue.ckpt")
            if trainer.is_global_zero:
                job = os.environ["SLURM_JOB_ID"]
                if (task := os.environ.get("SLURM_ARRAY_TASK_ID")) is not None:
                    job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
                log.warning(
                    "step %d: saved requeue.ckpt, requeueing job %s", trainer.global_step, job
                )
                subprocess.run(["scontrol", "requeue", job], check=True)
            self._done = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._leave()  # after the step's figures are written; trainer.should_stop would validate first

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._done:
            raise SystemExit(0)
