"""EffectiveBatch: a run that goes on with other processes says what its batch has become."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from freeflow_lightning.training.data import PriorDataModule
from freeflow_lightning.training.loop_progress import scale_epoch

BATCH = "effective_batch"
"""The key of a checkpoint under which stands what its steps were made of."""


class EffectiveBatch(Callback):
    """Notes in each checkpoint how many processes and samples a step has, compares on resuming, and
    keeps the place in the epoch where the number of batches in a step has changed.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep a resumed ModelCheckpoint, which forgets what it has saved, from saving the step that
        it went on from again, in the middle of the next one.
        """
        if trainer.accumulate_grad_batches == 1:
            return
        for keeper in trainer.checkpoint_callbacks:
            if isinstance(keeper, ModelCheckpoint) and keeper._every_n_train_steps > 0:
                keeper._last_global_step_saved = trainer.global_step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[BATCH] = describe_batch(trainer)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        before = checkpoint.get(BATCH)  # 0.1.0 wrote none
        if before is None or trainer.state.fn != TrainerFn.FITTING:
            return
        now = describe_batch(trainer)
        scale_epoch(checkpoint["loops"]["fit_loop"], before["per_step"], now["per_step"])
        if line := tell_change(before, now):
            rank_zero_info(line)


def describe_batch(trainer: Trainer) -> dict[str, Any]:
    """Return the processes of a run, the samples of its optimizer steps (None where the data are
    not ours) and the batches that a step is counted in.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning, undeclared
    if not isinstance(data, PriorDataModule):
        return {"processes": trainer.world_size, "samples": None, "per_step": 1}
    samples = data.shares.size * trainer.world_size * trainer.accumulate_grad_batches
    return {
        "processes": trainer.world_size,
        "samples": samples,
        "per_step": data.shares.per_step,
    }


def tell_change(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return what has changed, in a line; empty for nothing.

    >>> tell_change({"processes": 4, "samples": 256}, {"processes": 2, "samples": 128})
    'going on with 2 processes (it was 4): the effective batch is 128 (it was 256); --data.global_batch_size 256 keeps it'
    """
    lines = []
    if before["processes"] != now["processes"]:
        words = "process" if now["processes"] == 1 else "processes"
        lines.append(f"going on with {now['processes']} {words} (it was {before['processes']})")
    if before["samples"] != now["samples"] and None not in (before["samples"], now["samples"]):
        lines.append(
            f"the effective batch is {now['samples']} (it was {before['samples']}); "
            f"--data.global_batch_size {before['samples']} keeps it"
        )
    elif lines and now["samples"] is not None:
        lines.append(f"the effective batch is still {now['samples']}")
    return ": ".join(lines)
