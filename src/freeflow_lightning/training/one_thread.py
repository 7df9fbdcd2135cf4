"""OneThread: small networks train on one thread of a CPU, unless the user has chosen."""

import os

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

SMALL = 5_000_000
"""Weights in training below which a second thread gains little, and loses much where cores are busy:
two threads on two busy cores were six times as slow as one.
"""


class OneThread(Callback):
    """Trains networks below `SMALL` on one thread of a CPU, and says so.

    OMP_NUM_THREADS and torch.set_num_threads(1) are left as they are; after the training the number
    of threads is what it was.
    """

    def __init__(self) -> None:
        self._before: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        threads = torch.get_num_threads()
        is_chosen = "OMP_NUM_THREADS" in os.environ or threads == 1
        if is_chosen or pl_module.device.type != "cpu" or weights >= SMALL:
            return
        self._before = threads
        torch.set_num_threads(1)
        rank_zero_info(
            f"one CPU thread of {threads}, as only {weights:,} weights are trained: set "
            "OMP_NUM_THREADS for another number"
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            torch.set_num_threads(self._before)
            self._before = None
