"""The progress bar of a distillation, its plain lines, and the summary of its networks."""

import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar, Protocol, runtime_checkable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    ModelSummary,
    RichModelSummary,
    RichProgressBar,
    TQDMProgressBar,
)
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from torch import Tensor, nn
from torch.nn import Parameter

from freeflow_lightning.flow import check_counts
from freeflow_lightning.training.trainer_facts import current_batch, is_logged

SHOWN = {
    "fid/student": "FID",
    "speed/samples_per_s": "samples/s",
}
BAR_WIDTH = 8
BESIDE_FIGURES = 36
"""Columns of the bar, the count of steps, the time left and the spaces between them."""


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
        if trainer.max_steps > 0:
            return trainer.max_steps * trainer.accumulate_grad_batches
        return super().total_train_batches

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Bar, steps and the time left: with the figures they fit a terminal of 80 columns."""
        return [
            TextColumn("{task.description}"),
            BarColumn(bar_width=BAR_WIDTH),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
        ]

    def _get_train_description(self, current_epoch: int) -> str:
        return "fit"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.max_steps <= 0 or self.train_progress_bar_id is None:
            super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = current_batch(trainer) if trainer.max_steps > 0 else batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, done)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the logged figures of the recipe and of SHOWN, three digits each; looked at when
        new ones may be there.

        Between two logged steps the host asks the device for none.
        """
        if not self._shown or not trainer.training or is_logged(trainer, trainer.global_step):
            width = Console().width if self._console is None else self._console.width
            self._shown = fit_figures(read_figures(trainer, pl_module), width - BESIDE_FIGURES)
        return self._shown


@runtime_checkable
class ShowsItself(Protocol):
    """What a recipe says of itself while it trains."""

    progress_names: ClassVar[Mapping[str, str]]

    def summary_rows(self) -> list[tuple[str, nn.Module, str]]:
        """Name, network and state of all that is in memory."""

    def tensors_by_network(self) -> dict[str, list[Tensor]]:
        """Weights and buffers in memory by row of the summary, each once."""


def read_figures(trainer: Trainer, module: LightningModule) -> dict[str, str]:
    """Return the recipe's figures and those of SHOWN that are logged, three digits each."""
    known = trainer.callback_metrics
    own = module.progress_names if isinstance(module, ShowsItself) else {}
    names = {**own, **SHOWN}
    return {short: f"{float(known[name]):.3g}" for name, short in names.items() if name in known}


def fit_figures(figures: Mapping[str, str], columns: int) -> dict[str, str]:
    """As many of the figures, from the first on, as fit into so many columns.

    >>> fit_figures({"pred": "0.31", "aux": "1.1", "FID": "2.6"}, 20)
    {'pred': '0.31', 'aux': '1.1'}
    """
    shown: dict[str, str] = {}
    for name, value in figures.items():
        columns -= len(f"{name}: {value} ")
        if columns < 0:
            break
        shown[name] = value
    return shown


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
        if not trainer.is_global_zero or not isinstance(pl_module, ShowsItself):
            return
        table = Table(title=type(pl_module).__name__, title_justify="left")
        for column in ("network", "class", "parameters", "state"):
            table.add_column(column, justify="right" if column == "parameters" else "left")
        owned = pl_module.tensors_by_network()
        for name, network, state in pl_module.summary_rows():
            count = sum(tensor.numel() for tensor in owned[name] if isinstance(tensor, Parameter))
            table.add_row(name, type(network).__name__.removeprefix("FSDP"), f"{count:,}", state)
        Console().print(table)


def pick_progress() -> Callback:
    """Return a bar in a terminal and in a notebook, plain lines elsewhere."""
    has_screen = sys.stdout.isatty() or Console().is_jupyter
    return DistillationProgress() if has_screen else ProgressLines()


def replace_defaults(trainer: Trainer) -> list[Callback]:
    """Take Lightning's own bar and summary out of a Trainer, and return those of this package.

    Lightning's bar counts the epochs of a run that has none (Epoch 0/-2), and its summary counts the
    teacher as a part of the model. Others that the user has chosen stay.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning, undeclared
    added: list[Callback] = []
    for given in list(callbacks):
        if type(given) in (RichProgressBar, TQDMProgressBar):
            callbacks.remove(given)
            added.append(pick_progress())
        elif type(given) in (ModelSummary, RichModelSummary):
            callbacks.remove(given)
            added.append(NetworkSummary())
    return added
