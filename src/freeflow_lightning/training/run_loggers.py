"""What a run logs in its folder: metrics.csv, written row by row and read again, and TensorBoard's events."""

import csv
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lightning.fabric.loggers.csv_logs import _ExperimentWriter as FabricWriter
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from freeflow_lightning.training.atomic_write import write_file
from freeflow_lightning.training.folder_lock import take_lock
from freeflow_lightning.training.run_folder import claim_version


class MetricsWriter(ExperimentWriter):
    """Lightning's writer, appending to the file that is there; a table is only ever replaced whole,
    by renaming.

    Args:
        log_dir: the run's folder.
        rows: rows that the table starts with.
    """

    def __init__(self, log_dir: str, rows: list[dict[str, float]]) -> None:
        super().__init__(log_dir)
        self.metrics_keys = sorted({"step"}.union(*rows))
        self._replace(rows)

    def _check_log_dir_exists(self) -> None:
        """A resumed run's folder is not empty."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._replace(read_table(Path(self.metrics_file_path)).rows)

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        with write_file(self.metrics_file_path) as path, path.open("w", newline="") as file:
            table = csv.DictWriter(file, self.metrics_keys)
            table.writeheader()
            table.writerows(rows)


class MetricsCSV(CSVLogger):
    """Lightning's CSVLogger, written through at each row: it claims or continues a run's folder.

    It is the first of a Trainer's loggers, so that checkpoints and samples land beside metrics.csv
    whatever the others are.

    Args:
        save_dir: folder of all runs.
        name: the config's name.
        version: N; if not given, the next free one, claimed by the first process when asked for.
        keep_below: rows of an earlier process are kept up to this step (that of the checkpoint);
            later ones are repeated.
        repeats_validation: the validation of that step is repeated too: what it has logged is not
            kept.
    """

    def __init__(
        self,
        save_dir: str | Path,
        name: str,
        version: int | None = None,
        keep_below: int = 0,
        repeats_validation: bool = False,
    ) -> None:
        super().__init__(save_dir, name, version, flush_logs_every_n_steps=1)
        self.keep_below = keep_below
        self._unlock: Callable[[], Any] | None = None
        self.repeats_validation = repeats_validation

    @property
    def version(self) -> int | str:
        if self._version is None:
            if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # set by Lightning
                return "unclaimed"  # Lightning takes the first process's answer
            self._version = claim_version(Path(self.root_dir))
            handle = os.open(self.log_dir, os.O_RDONLY)
            self._unlock = weakref.finalize(self, os.close, handle)
            # nobody else's yet: it keeps others from going on with a run that runs
            take_lock(handle)
        return self._version

    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._unlock is not None:
            self._unlock()

    def share_version(self, trainer: Trainer) -> None:
        """Let every process know what the first one has claimed. Every process has to call."""
        self._version = trainer.strategy.broadcast(self.version)

    @property
    @rank_zero_experiment
    def experiment(self) -> FabricWriter:
        if self._experiment is None:
            path = Path(self.log_dir) / "metrics.csv"
            if read_table(path).unreadable:
                shutil.copy2(path, path.with_name("metrics_damaged.csv"))
            self._experiment = MetricsWriter(
                self.log_dir, [row for row in read_metrics(path) if self._keeps(row)]
            )
        return self._experiment

    def _keeps(self, row: dict[str, float]) -> bool:
        """Return whether a row of an earlier process is not going to be logged again."""
        is_of_last_step = row["step"] == self.keep_below - 1
        is_of_training = any(name.startswith("gradient/") for name in row)
        if self.repeats_validation and is_of_last_step and not is_of_training:
            return False
        return row["step"] < self.keep_below


class Events(TensorBoardLogger):
    """Lightning's TensorBoardLogger, writing into the folder that a MetricsCSV has claimed."""

    def __init__(self, table: MetricsCSV) -> None:
        super().__init__(table.save_dir, table.name, default_hp_metric=False)
        self._table = table

    @property
    def version(self) -> int | str:
        return self._table.version


class MetricsTable(NamedTuple):
    """The readable rows of a metrics.csv as text, and how many are not readable."""

    rows: list[dict[str, str]]
    unreadable: int


def read_table(path: Path) -> MetricsTable:
    """Read what can be read of a metrics.csv; no rows where there is no file.

    A row is unreadable with too few or too many cells, without a step, or with something else than
    numbers; and so is a last row without its end, for its last number may be cut.
    """
    if not path.is_file():
        return MetricsTable([], 0)
    head, *lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    last = lines.pop() if lines else ""
    names = _cells(head)
    rows = [row for line in lines if (row := _row(names, _cells(line))) is not None]
    written = [line for line in [*lines, last] if line.strip()]
    return MetricsTable(rows, len(written) - len(rows))


def _cells(line: str) -> list[str]:
    """Return the cells of a line; none where a power cut has left NUL bytes."""
    return [] if "\0" in line else next(csv.reader([line.rstrip("\r")]), [])


def _row(names: list[str], cells: list[str]) -> dict[str, str] | None:
    """Return the cells by name; None if one is missing, or is no number."""
    if len(cells) != len(names):
        return None
    row = dict(zip(names, cells, strict=True))
    try:
        int(row["step"])
        for cell in cells:
            float(cell or 0)
    except (KeyError, ValueError):
        return None
    return row


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read a metrics.csv, without its empty cells and NaN (a bin without samples).

    Rows that cannot be read are left out, and a warning says how many they are.
    """
    table = read_table(path)
    if table.unreadable:
        left_out = f"{table.unreadable} damaged rows cannot be read and are left out"
        rank_zero_warn(f"{path}: {left_out}, {len(table.rows)} are kept")
    return [_numbers(row) for row in table.rows]


def _numbers(row: dict[str, str]) -> dict[str, float]:
    known = {name: float(cell) for name, cell in row.items() if cell not in ("", "nan")}
    return known | {"step": int(row["step"])}
