"""Where the runs of a config are, and which of their checkpoints a run goes on from."""

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple, Self

from lightning.pytorch.utilities import rank_zero_info

from freeflow_lightning.training.resuming import (
    FoundCheckpoint,
    Origin,
    checkpoint_of_job,
    last_checkpoint,
)
from freeflow_lightning.training.run_folder import ROOT


class RunPlace(NamedTuple):
    """Where the runs of a config are.

    Attributes:
        root: the folder of all runs, below the current one or --trainer.default_root_dir.
        name: of these runs, the config's.
        origin: the config file; None where none was given.
    """

    root: Path
    name: str
    origin: Origin | None

    @classmethod
    def of_config(cls, config: Any) -> Self:
        """Return the place of what `freeflow fit` or `validate` is given.

        Raises:
            ValueError: a root that is no local folder.
        """
        root = str(config.trainer.default_root_dir or ".")
        if "://" in root:
            raise ValueError(f"expected a local folder in --trainer.default_root_dir, got {root}")
        given = Path(str(config.config[0])) if config.get("config") else None
        origin = Origin.of_file(given, Path(root)) if given and given.is_file() else None
        return cls(Path(root) / ROOT, given.stem if given else "default", origin)

    @property
    def folder(self) -> Path:
        """The folder of these runs."""
        return self.root / self.name

    def find_checkpoint(self, asked: str | None, *, trains: bool) -> FoundCheckpoint | None:
        """Find what a requeued job, or --ckpt_path last, goes on from; None for neither of them."""
        found = checkpoint_of_job(self.folder) if trains else None  # whatever its first start was
        if found is None and asked == "last":
            found = last_checkpoint(self.folder, self.origin, trains=trains)
        if found is not None and found.passed_over:
            rank_zero_info(f"taking {found.path}; passed over: {', '.join(found.passed_over)}")
        return found


def check_writable(root: Path) -> None:
    """Make the folder that holds runs/, and refuse one that cannot be written to (ValueError)."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise ValueError(
            "expected a folder that can be written to in --trainer.default_root_dir (the current "
            f"one if it is not given), got {root} ({error.strerror}): choose another"
        ) from error
