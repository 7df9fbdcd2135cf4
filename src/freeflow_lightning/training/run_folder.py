"""Where a run's files land: runs/<config name>/version_N/, a fresh N for a new run and the same one
for a resumed run.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

ROOT = "runs"
CHECKPOINTS = "checkpoints"


def versions(folder: Path) -> list[int]:
    """Return the N of all version_N in a folder, rising."""
    names = (re.fullmatch(r"version_(\d+)", path.name) for path in folder.glob("version_*"))
    return sorted(int(match[1]) for match in names if match)


def newest(folder: Path) -> Path:
    """Return a run's own folder: the given one, or in it the newest version that has checkpoints (a
    validation's has none).

    Raises:
        FileNotFoundError: neither has any.
    """
    numbers = versions(folder)
    own = [folder / f"version_{n}" for n in reversed(numbers)] if numbers else [folder]
    for each in own:
        if (each / CHECKPOINTS).is_dir():
            return each
    raise FileNotFoundError(
        f"no run with checkpoints at {folder}: expected runs/NAME or runs/NAME/version_N"
    )


def next_version(folder: Path) -> int:
    """Return the N of a new run."""
    return max(versions(folder), default=-1) + 1


def claim_version(folder: Path) -> int:
    """Make the folder of a new run and return its N: processes that claim at once have one each."""
    folder.mkdir(parents=True, exist_ok=True)
    n = next_version(folder)
    while True:
        try:
            (folder / f"version_{n}").mkdir(exist_ok=False)
        except FileExistsError:
            n += 1
        else:
            return n


def folder_of(trainer: "Trainer") -> Path | None:
    """Find a run's folder, in which ModelCheckpoint writes checkpoints/.

    None where nothing is to be written (fast_dev_run). Every process has to ask: the first one
    answers for all.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by Lightning, undeclared
        return None
    folder = Path(trainer.default_root_dir)
    if trainer.loggers:
        first = trainer.loggers[0]
        version = first.version if isinstance(first.version, str) else f"version_{first.version}"
        folder = Path(first.save_dir or trainer.default_root_dir) / str(first.name) / version
    return Path(trainer.strategy.broadcast(str(folder)))


def job_file() -> str:
    """Return the name of the empty file by which a SLURM job finds its run again; empty outside of
    SLURM.
    """
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"slurm_{job}" + (f"_{task}" if task else "") if job else ""


def checkpoints_of(run: Path) -> list[Path]:
    """Return all checkpoints of a run."""
    return list((run / CHECKPOINTS).rglob("*.ckpt"))


def run_of(checkpoint: Path) -> Path | None:
    """Return the run's folder that a checkpoint lies in; None for one from elsewhere."""
    homes = (parent.parent for parent in checkpoint.resolve().parents if parent.name == CHECKPOINTS)
    return next(homes, None)


def version_of(checkpoint: Path, folder: Path) -> int | None:
    """Return the N of the run in `folder` that a checkpoint belongs to; None for one from
    elsewhere.
    """
    home = run_of(checkpoint)
    match = re.fullmatch(r"version_(\d+)", home.name) if home else None
    return int(match[1]) if home and match and home.parent == folder.resolve() else None
