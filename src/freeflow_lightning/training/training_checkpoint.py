"""A training checkpoint as what it says of itself: read in parts, and built again from the config
that it carries.
"""

import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from freeflow_lightning.training.checkpoint_damage import unreadable, written_at
from freeflow_lightning.training.checkpoint_folder import META, read_meta
from freeflow_lightning.training.checkpoint_reader import is_remote, read_checkpoint_file
from freeflow_lightning.training.digests import config_key
from freeflow_lightning.training.old_names import use_new_paths
from freeflow_lightning.training.resuming import FoundCheckpoint, first_good
from freeflow_lightning.training.run_folder import versions
from freeflow_lightning.training.tensor_file import TensorFile

ABOUT = "freeflow_lightning"
"""The key of a checkpoint under which this package writes its version and where the training found
its files.
"""

Config = dict[str, Any]


class TrainingCheckpoint(NamedTuple):
    """A checkpoint of which the weights are still on the disk.

    Attributes:
        path: of the file or folder.
        content: everything but the weights and the state of the training.
        names: of the weights.
        read: the weights of the given names, each checked against its CRC32.
    """

    path: Path
    content: dict[str, Any]
    names: list[str]
    read: Callable[[list[str]], dict[str, Tensor]]

    @property
    def config(self) -> Config | None:
        """Class path and arguments of the recipe; None where nothing says them."""
        config = self.content.get("hyper_parameters")
        if not isinstance(config, dict) or not isinstance(config.get("class_path"), str):
            return None
        recipe: Config = use_new_paths(config)
        return recipe

    @property
    def version(self) -> str:
        """The version of this package that wrote it, in words."""
        return f"freeflow-lightning {self.about.get('version', '0.1.0')}"

    @property
    def is_as_written(self) -> bool:
        """Whether this version of the package wrote it, and nobody changed its config since."""
        is_of_now = self.about.get("version") == version("freeflow-lightning")
        key = config_key(self.content.get("hyper_parameters"))
        return bool(is_of_now and self.about.get("config_key") == key)

    @property
    def about(self) -> Config:
        """What this package says of the training beside its config: see `training_facts`."""
        found: Config = self.content.get(ABOUT, {})
        return found

    @property
    def averages(self) -> list[str]:
        """The names of the averages, in the order of the config."""
        return list(
            dict.fromkeys(name.split(".")[1] for name in self.names if name.startswith("averages."))
        )

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """Return the weights below a prefix ("student."), by their names without it; nothing else
        is read.
        """
        held = self.read([name for name in self.names if name.startswith(prefix)])
        return {name.removeprefix(prefix): value for name, value in held.items()}


def training_facts(folders: Sequence[str], teacher_weights: str | None) -> Config:
    """Return what a checkpoint says beside its config: the package's version, the folders of
    relative paths, the teacher's weights.
    """
    return {
        "version": version("freeflow-lightning"),
        "folders": list(folders),
        "teacher_weights": teacher_weights,
    }


# Reading


def open_checkpoint(place: str | Path) -> TrainingCheckpoint:
    """Return the checkpoint of a file, a sharded run's folder, a run's folder or an address;
    nothing in it is executed.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a damaged checkpoint, one that holds more than tensors and plain values, or no
            checkpoint.
    """
    path = find_checkpoint(place)
    if not is_remote(place) and path.is_dir():
        return _open_folder(path)
    if is_remote(place) or not zipfile.is_zipfile(path):
        content = read_checkpoint_file(place if is_remote(place) else path)
        weights = _weights_of(content, path)
        return TrainingCheckpoint(
            path, _settings(content), list(weights), lambda names: {k: weights[k] for k in names}
        )
    return _open_file(path)


def find_checkpoint(place: str | Path, *, trains: bool = False) -> Path:
    """Return the checkpoint itself, of a run's folder its last one that is whole, and that training
    can go on from if it `trains`; a warning names those that are passed over.

    Raises:
        FileNotFoundError: a folder that is neither a run nor a checkpoint.
        ValueError: a run of which no checkpoint is whole.
    """
    path = Path(place)
    if (
        is_remote(place)
        or not path.is_dir()
        or (path / META).is_file()
        or (path / ".metadata").is_file()
    ):
        return path
    runs = [path / f"version_{n}" for n in reversed(versions(path))] or [path]
    for run in runs:
        if written := sorted((run / "checkpoints").glob("*.ckpt"), key=_age, reverse=True):
            return _last_whole(run, written, trains)
    raise FileNotFoundError(
        f"no checkpoint in {place}: expected a run that has written one (runs/NAME or "
        "runs/NAME/version_N), the folder of a sharded checkpoint, or an exported student (with "
        "freeflow.json)"
    )


def _last_whole(run: Path, last_first: Sequence[Path], trains: bool) -> Path:
    """Return the first whole checkpoint of a run."""
    found = first_good(last_first, trains=trains)
    if not isinstance(found, FoundCheckpoint):
        raise ValueError(f"no checkpoint of {run} is whole: found {', '.join(found)}")
    if found.passed_over:
        warnings.warn(
            f"taking {found.path}; passed over: {', '.join(found.passed_over)}", stacklevel=2
        )
    return found.path


def _age(checkpoint: Path) -> tuple[bool, int]:
    """Sorts a run's checkpoints so that its last one comes last."""
    return checkpoint.stem.startswith("last"), written_at(checkpoint)


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    training = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops")
    return {name: value for name, value in content.items() if name not in training}


def _weights_of(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{path} is not a Lightning checkpoint: it has no state_dict")
    return content["state_dict"]


def _open_file(path: Path) -> TrainingCheckpoint:
    try:
        file = TensorFile.open(path)
    except Exception as error:
        raise unreadable(path, error) from error
    weights = _weights_of(file.content, path)

    def read(names: list[str]) -> dict[str, Tensor]:
        try:
            return file.read({name: weights[name] for name in names})
        except (zipfile.BadZipFile, KeyError, EOFError, OSError) as error:
            raise unreadable(path, error) from error

    return TrainingCheckpoint(path, _settings(file.content), list(weights), read)


def _open_folder(path: Path) -> TrainingCheckpoint:
    from freeflow_lightning.training.sharded_checkpoint import read_parts, sharded_keys  # noqa: PLC0415 (torch.distributed.checkpoint: a second that files do without)

    try:
        content, names = read_meta(path), sorted(sharded_keys(path))
    except Exception as error:
        raise unreadable(path, error) from error

    def read(names: list[str]) -> dict[str, Tensor]:
        if not names:
            return {}
        try:
            found: dict[str, Tensor] = read_parts(path, {f"state_dict.{name}" for name in names})[
                "state_dict"
            ]
        except Exception as error:
            raise unreadable(path, error) from error
        return found

    return TrainingCheckpoint(path, content, names, read)
