"""Where a run's files land: runs/<config name>/version_N/, a fresh N for a new run and the same one for a resumed run."""

import csv
import os
import re
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.csv_logs import _ExperimentWriter as FabricWriter
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

ROOT = "runs"


def versions(folder: Path) -> list[int]:
    """The N of all version_N in a folder, rising."""
    names = (re.fullmatch(r"version_(\d+)", path.name) for path in folder.glob("version_*"))
    return sorted(int(match[1]) for match in names if match)


def next_version(folder: Path) -> int:
    """The N of a new run."""
    return max(versions(folder), default=-1) + 1


def last_checkpoint(folder: Path) -> Path:
    """The most recently written checkpoint of the newest run that has any.

    Raises:
        FileNotFoundError: no run in the folder has written one.
    """
    for n in reversed(versions(folder)):
        written = newest(list((folder / f"version_{n}" / "checkpoints").glob("*.ckpt")))
        if written is not None:
            return written
    raise FileNotFoundError(f"--ckpt_path last: no run in {folder} has written a checkpoint; leave it out to start anew")


def job_file() -> str:
    """The name of the empty file by which a SLURM job finds its run again; empty outside of SLURM."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"slurm_{job}" + (f"_{task}" if task else "") if job else ""


def checkpoint_of_job(folder: Path) -> Path | None:
    """The newest checkpoint of this SLURM job's earlier start, where the job was requeued and had written one."""
    if not int(os.environ.get("SLURM_RESTART_COUNT", "0")) or not job_file():
        return None
    runs = [marker.parent for marker in folder.glob(f"version_*/{job_file()}")]
    return newest([path for run in runs for path in (run / "checkpoints").glob("*.ckpt")])


def newest(paths: list[Path]) -> Path | None:
    """The one written last."""
    return max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)


def version_of(checkpoint: Path, folder: Path) -> int | None:
    """The N of the run in `folder` that a checkpoint belongs to; None for one from elsewhere."""
    home = checkpoint.resolve().parent.parent
    match = re.fullmatch(r"version_(\d+)", home.name)
    return int(match[1]) if match and home.parent == folder.resolve() else None


class MetricsWriter(ExperimentWriter):
    """Lightning's writer, appending to the file that is there; a table is only ever replaced whole, by renaming.

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
        with Path(self.metrics_file_path).open(newline="") as file:
            self._replace(list(csv.DictReader(file)))

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        written = Path(self.metrics_file_path).with_suffix(".tmp")
        with written.open("w", newline="") as file:
            table = csv.DictWriter(file, self.metrics_keys)
            table.writeheader()
            table.writerows(rows)
        os.replace(written, self.metrics_file_path)


class MetricsCSV(CSVLogger):
    """Lightning's CSVLogger, written through at each row, that continues the metrics.csv of a resumed run.

    Args:
        save_dir: folder of all runs.
        name: the config's name.
        version: N.
        keep_below: rows of an earlier process are kept up to this step (that of the checkpoint); later ones are repeated.
    """

    def __init__(self, save_dir: str, name: str, version: int, keep_below: int = 0) -> None:
        super().__init__(save_dir, name, version, flush_logs_every_n_steps=1)
        self.keep_below = keep_below

    @property
    @rank_zero_experiment
    def experiment(self) -> FabricWriter:
        if self._experiment is None:
            earlier = read_metrics(Path(self.log_dir) / "metrics.csv")
            self._experiment = MetricsWriter(self.log_dir, [row for row in earlier if row["step"] < self.keep_below])
        return self._experiment


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, empty cells and NaN (a bin without samples) left out; no rows where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [{name: float(cell) for name, cell in row.items() if cell not in ("", "nan")} for row in csv.DictReader(file)]
    return [row | {"step": int(row["step"])} for row in rows if "step" in row]
