"""What a run goes on from: the checkpoint that `last` means, and the config that it belongs to."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from freeflow_lightning.training.atomic_write import write_json
from freeflow_lightning.training.checkpoint_damage import defect, written_at
from freeflow_lightning.training.elastic import UNNAMED, elastic_file, is_restarted
from freeflow_lightning.training.run_folder import checkpoints_of, job_file, versions

ORIGIN = "origin.json"
"""A run's note of the config file that it was started from."""


class Origin(NamedTuple):
    """The config file that a run was started from.

    Args:
        config: its path, seen from the folder that holds runs/.
        sha256: of its text.
    """

    config: str
    sha256: str

    @classmethod
    def of_file(cls, config: Path, root: Path) -> "Origin":
        """Of a config that `freeflow fit` is given, for runs below `root`."""
        digest = hashlib.sha256(config.read_bytes()).hexdigest()
        return cls(Path(os.path.relpath(config.resolve(), root.resolve())).as_posix(), digest)

    @classmethod
    def of_run(cls, run: Path) -> "Origin | None":
        """Of an earlier run; None where it left no readable note."""
        try:
            note = json.loads((run / ORIGIN).read_text(encoding="utf-8"))
            return cls(str(note["config"]), str(note["sha256"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, run: Path) -> None:
        """Leave a note in a run's folder."""
        write_json(run / ORIGIN, self._asdict())

    def is_other_than(self, mine: "Origin") -> bool:
        """Return whether this is another experiment: a file that was edited, or moved, is the same
        one.
        """
        return self.config != mine.config and self.sha256 != mine.sha256


class FoundCheckpoint(NamedTuple):
    """A checkpoint to go on from, and what is newer and was not taken, each with the reason."""

    path: Path
    passed_over: tuple[str, ...] = ()


def last_checkpoint(
    folder: Path, origin: Origin | None = None, *, trains: bool = True
) -> FoundCheckpoint:
    """Find the newest good checkpoint of the newest run of this config that has written any.

    Args:
        folder: of all runs of configs of this name.
        origin: the config; runs of other files with the same name are passed over.
        trains: whether training is to go on from it, which takes more than weights.

    Raises:
        FileNotFoundError: no run of this config has written one.
        ValueError: the newest run has none that can be gone on from.
    """
    others: list[str] = []
    for n in reversed(versions(folder)):
        paths = checkpoints_of(run := folder / f"version_{n}")
        theirs = Origin.of_run(run)
        if paths and origin and theirs and theirs.is_other_than(origin):
            others.append(theirs.config)
        elif paths:
            found = newest_good(paths, trains=trains)
            newer = [f"a newer run of {config}" for config in others]
            return found._replace(passed_over=(*newer, *found.passed_over))
    if others and origin:
        raise FileNotFoundError(
            f"--ckpt_path last: the runs in {folder} are of {', '.join(sorted(set(others)))}, "
            f"another experiment than {origin.config}: give the path of a checkpoint to go on from "
            "it, or leave --ckpt_path out to start anew"
        )
    what = f"no run in {folder} has written a checkpoint"
    raise FileNotFoundError(f"--ckpt_path last: {what}; leave it out to start anew")


def checkpoint_of_job(folder: Path) -> FoundCheckpoint | None:
    """Find the newest good checkpoint of a job that SLURM has requeued or torchrun restarted; None
    where it has none.
    """
    requeued = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    paths = _written_by(folder, job_file()) if requeued else []
    if not paths and is_restarted():
        paths = _written_by(folder, elastic_file())
    return newest_good(paths) if paths else None


def _written_by(folder: Path, marker: str) -> list[Path]:
    """Return the checkpoints of the newest run that a job has marked as its own and written any
    in.
    """
    marked = [n for n in versions(folder) if marker and (folder / f"version_{n}" / marker).exists()]
    for n in reversed(marked):
        paths = checkpoints_of(folder / f"version_{n}")
        if paths or marker == UNNAMED:  # an older run may be of another job without a name
            return paths
    return []


def newest_good(paths: Iterable[Path], *, trains: bool = True) -> FoundCheckpoint:
    """Find the one written last of those that can be gone on from.

    Raises:
        ValueError: there is none.
    """
    found = first_good(sorted(paths, key=written_at, reverse=True), trains=trains)
    if isinstance(found, FoundCheckpoint):
        return found
    raise ValueError(
        "no checkpoint to go on from: expected one with weights and optimizer, "
        f"found {', '.join(found)}; leave --ckpt_path out to start anew"
    )


def first_good(paths: Iterable[Path], *, trains: bool) -> FoundCheckpoint | list[str]:
    """Find the first that can be gone on from; where there is none, what is wrong with each."""
    bad: list[str] = []
    for path in paths:
        reason = defect(path, trains=trains)
        if not reason:
            return FoundCheckpoint(path, tuple(bad))
        bad.append(f"{path.name} ({reason})")
    return bad
