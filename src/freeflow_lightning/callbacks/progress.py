"""The progress bar of a distillation, its plain lines, and the summary of its networks."""

import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console
from rich.table import Table
from torch.nn import Parameter

from freeflow_lightning.flow import check_counts
from freeflow_lightning.recipes.base import Recipe
from freeflow_lightning.training.trainer_facts import current_batch, is_logged

SHOWN = {
    "speed/samples_per_s": "samples/s",
    "fid/student": "FID",
}


class DistillationProgress(RichProgressBar):
    """One bar for the whole run: step, loss terms, samples/s and the last FID.

    Args:
        refresh_rate: batches between two redraws.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        check_counts(0, refresh_rate=refresh_rate)
        super().__init__(refresh_rate=refresh_rate)
        self._shown: dict[str, str] = {}

    @property
    def total_train_batches(self) -> int | float:
        """Batches of the whole run where max_steps bounds it, of the epoch otherwise."""
        trainer = self.trainer
        return (
            trainer.max_steps * trainer.accumulate_grad_batches
            if trainer.max_steps > 0
            else super().total_train_batches
        )

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.max_steps <= 0 or self.train_progress_bar_id is None:
            super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = current_batch(trainer) if trainer.max_steps > 0 else batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, done)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged figures of the recipe and of SHOWN, three digits each; looked at when new ones
        may be there.

        Between two logged steps the host asks the device for none.
        """
        if not self._shown or not trainer.training or is_logged(trainer, trainer.global_step):
            self._shown = read_figures(trainer, pl_module)
        return self._shown


def read_figures(trainer: Trainer, module: LightningModule) -> dict[str, str]:
    """Return the recipe's figures and those of SHOWN that are logged, three digits each."""
    known = trainer.callback_metrics
    own = module.progress_names if isinstance(module, Recipe) else {}
    names = {**own, **SHOWN}
    return {short: f"{float(known[name]):.3g}" for name, short in names.items() if name in known}


class ProgressLines(Callback):
    """Prints a line at each logged step: where no terminal shows a bar.

    step 50/1000  pred 0.31  corr 0.2  aux 1.1  samples/s 812  0:01:10 left
    """

    def __init__(self) -> None:
        super().__init__()
        self._start = 0.0
        self._first_step = self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.monotonic()
        self._first_step = self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._last_step or not trainer.is_global_zero:
            return  # a part of a step alone, of an accumulated batch
        self._last_step = step
        if not is_logged(trainer, step) and step != trainer.max_steps:
            return
        figures = [f"{name} {value}" for name, value in read_figures(trainer, pl_module).items()]
        total = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
        print("  ".join([f"step {step}{total}", *figures, *self._time_left(trainer)]), flush=True)

    def _time_left(self, trainer: Trainer) -> list[str]:
        """Return the time that the steps left take at the pace so far; nothing for an open end."""
        done = trainer.global_step - self._first_step
        if trainer.max_steps <= 0:
            return []
        seconds = (
            (time.monotonic() - self._start) / done * (trainer.max_steps - trainer.global_step)
        )
        return [f"{timedelta(seconds=round(seconds))} left"]


class NetworkSummary(Callback):
    """Prints, before training, the parameters of the frozen teacher, the networks in training, and
    the averages.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, Recipe):
            return
        table = Table(title=type(pl_module).__name__, title_justify="left")
        for column in ("network", "class", "parameters", "state"):
            table.add_column(column, justify="right" if column == "parameters" else "left")
        owned = pl_module.tensors_by_network()
        for name, network, state in pl_module.summary_rows():
            count = sum(tensor.numel() for tensor in owned[name] if isinstance(tensor, Parameter))
            table.add_row(name, type(network).__name__.removeprefix("FSDP"), f"{count:,}", state)
        Console().print(table)
