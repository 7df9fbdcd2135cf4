"""Checkpoints that are whole or not there, as one file or as the folder of a sharded run, each read
by every strategy.
"""

import errno
import io
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _load
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.distributed.checkpoint import FileSystemReader, Metadata
from torch.distributed.checkpoint._nested_dict import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    _EmptyStateDictLoadPlanner,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.futures import Future
from torch.optim import Optimizer

from freeflow_lightning.training.atomic_write import is_full_disk, sweep, write_file

META = "meta.pt"
"""What Lightning calls the part of a sharded checkpoint that is no tensor."""


class CheckpointWriteError(OSError):
    """A checkpoint could not be written, and nothing of it is left; the message says what to go on
    from.
    """

    def __str__(self) -> str:
        return str(self.strerror)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, renamed into place on the same disk; the folders of sharded
    runs are read as well.

    Lightning itself collects the file in the system's temporary folder: where that is another disk,
    moving it is a copy, and a process that is killed meanwhile leaves half a checkpoint under the
    right name. Other than local paths are left to Lightning. Whatever the place, what is read is
    tensors and plain values: nothing in it is executed.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        sweep(target.parent, [target.name])
        try:
            with write_file(target) as temporary:
                with temporary.open(
                    "wb"
                ) as file:  # to a file of ours: its errors say what the system's were
                    torch.save(checkpoint, file)
                if target.is_dir():  # a sharded run's, now resumed by another strategy
                    shutil.rmtree(target)
        except OSError as error:
            raise CheckpointWriteError(
                error.errno, f"{target}: {error.strerror or error}; {advice(target)}"
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, _: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        return read_checkpoint_file(path, map_location)


def read_plain_values(strategy: Strategy) -> None:
    """Put this package's reader in the place of Lightning's, which unpickles what an address leads
    to and tears files.
    """
    io: CheckpointIO | None = strategy.checkpoint_io
    if type(io) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()
    while isinstance(io, _WrappingCheckpointIO):
        if type(io.checkpoint_io) is TorchCheckpointIO:
            io._checkpoint_io = AtomicCheckpointIO()  # its setter sets it once
        io = io.checkpoint_io


def advice(target: Path) -> str:
    """What to do where a checkpoint could not be written: the last good one is still there."""
    written = sorted(
        target.parent.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    good = next((path for path in written if not defect(path)), None)
    if good is None:
        return "no checkpoint was written before it: make room and start again"
    return f"the last good checkpoint is {good}: make room and go on with --ckpt_path {good}"


@contextmanager
def written_whole(folder: Path, barrier: Callable[[], None], *, first: bool) -> Iterator[Path]:
    """A temporary folder that all processes write to, renamed to `folder` when all are done.

    Raises:
        CheckpointWriteError: the disk is full.
    """
    temporary, old = (folder.with_name(f".{folder.name}.{part}") for part in ("tmp", "old"))
    if first:
        shutil.rmtree(temporary, ignore_errors=True)
    barrier()
    try:
        yield temporary
    except (
        Exception,
        CheckpointException,
    ) as error:  # the latter is none, and is raised on every process
        if first:
            shutil.rmtree(temporary, ignore_errors=True)
        if not is_full_disk(error):
            raise
        free = shutil.disk_usage(folder.parent).free / 2**20
        message = (
            f"{folder}: {os.strerror(errno.ENOSPC)}: {free:.1f} MiB are free; {advice(folder)}"
        )
        raise CheckpointWriteError(errno.ENOSPC, message) from error
    barrier()
    if first:
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        if old.exists():
            old.unlink()  # it was one file
    barrier()


def read_checkpoint_file(
    path: str | Path, map_location: Any = "cpu", *, mmap: bool = False
) -> dict[str, Any]:
    """Read a checkpoint from any place: one file, a sharded run's folder, or an address with a
    scheme (http, s3, hf, ...).

    Tensors and plain values alone are read; nothing is executed, whatever the scheme. With `mmap`
    the tensors of a file stay on the disk until they are used.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged checkpoint, or one that holds more than tensors and plain values.
    """
    if not is_remote(path) and not Path(path).exists():
        raise FileNotFoundError(
            f"no checkpoint at {path}: expected a .ckpt file, for example "
            f"runs/NAME/version_0/checkpoints/last.ckpt"
        )
    try:
        if is_remote(path):
            return _load(str(path), map_location, weights_only=True)
        return (
            read_sharded(Path(path))
            if Path(path).is_dir()
            else read_whole(Path(path), map_location, mmap=mmap)
        )
    except Exception as error:
        raise unreadable(path, error) from error


def is_remote(path: str | Path) -> bool:
    """Whether a path names a scheme; pathlib leaves one slash of its two.

    >>> is_remote("https://a.org/last.ckpt"), is_remote(Path("s3://a/last.ckpt")), is_remote("runs/last.ckpt")
    (True, True, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is not None


def check_whole(path: Path) -> None:
    """Compare every record of a checkpoint, a file or a sharded run's folder, with its CRC32.

    All of it is read, a record at a time.

    Raises:
        ValueError: a record that has changed.
    """
    if path.is_dir():
        check_whole(path / META)
        reader = _Reader(path)
        for share in (reader.read_metadata().storage_data or {}).values():
            reader.check_share(share.relative_path, share.offset, share.length)
        return
    if not zipfile.is_zipfile(path):
        return  # torch's older format, or no checkpoint at all: torch.load tells
    with zipfile.ZipFile(path) as archive:
        if (changed := archive.testzip()) is not None:
            raise ValueError(f"{changed} has changed since it was written")


def unreadable(path: str | Path, error: Exception) -> ValueError:
    """What is said of a checkpoint that cannot be read, with the way out."""
    if isinstance(error, pickle.UnpicklingError):
        return ValueError(
            f"{path} is not a readable checkpoint: it holds more than tensors and plain values, "
            "and loading it would run code, which is refused"
        )
    older = older_checkpoint(Path(path))
    way_out = (
        f"the newest good one before it is {older}" if older else "no older good one lies beside it"
    )
    why = describe_damage(error)
    return ValueError(f"{path} is not a readable checkpoint ({why}): it is damaged; {way_out}")


def describe_damage(error: Exception) -> str:
    """What is wrong with a file, from what it made of its reader."""
    tells = isinstance(error, ValueError | zipfile.BadZipFile)
    return str(error) if tells and str(error) else type(error).__name__


def older_checkpoint(path: Path) -> Path | None:
    """The newest whole checkpoint that was written before this one and lies beside it."""
    if not path.exists():
        return None
    beside = [
        other
        for other in path.parent.glob("*.ckpt")
        if other != path and written_at(other) <= written_at(path)
    ]
    newest_first = sorted(beside, key=written_at, reverse=True)
    return next((other for other in newest_first if not defect(other, trains=False)), None)


def written_at(path: Path) -> int:
    """When a file or folder was written, in nanoseconds."""
    return path.stat().st_mtime_ns


def read_whole(path: Path, map_location: Any = "cpu", *, mmap: bool = False) -> dict[str, Any]:
    """A checkpoint file, after each of its records has been checked."""
    check_whole(path)
    in_place = mmap and zipfile.is_zipfile(path)
    content: dict[str, Any] = torch.load(
        path, map_location=map_location, weights_only=True, mmap=in_place
    )
    return content


def read_sharded(folder: Path) -> dict[str, Any]:
    """A sharded run's checkpoint as the one-process checkpoint that it stands for."""
    found = read_meta(folder)
    content = read_parts(folder)
    found["state_dict"] = content.pop("state_dict")
    states = [content[f"optimizer_{k}"] for k in range(len(content))]
    named = [
        [name for group in state["param_groups"] for name in group["params"]] for state in states
    ]
    return found | {
        "optimizer_states": [
            by_index(state, names) for state, names in zip(states, named, strict=True)
        ]
    }


def read_meta(folder: Path) -> dict[str, Any]:
    """The part of a sharded run's checkpoint that is no tensor."""
    check_whole(folder / META)
    content: dict[str, Any] = torch.load(folder / META, map_location="cpu", weights_only=True)
    return content


def read_parts(folder: Path, keys: set[str] | None = None) -> dict[str, Any]:
    """The tensors of a sharded run's checkpoint, all of them or those of the given keys
    ("state_dict.student...").
    """
    content: dict[str, Any] = {}
    reader = _Reader(folder)
    reader.read_metadata()  # torch would tell of a refusal in a page
    with described():
        _load_state_dict(content, storage_reader=reader, planner=_Planner(keys), no_dist=True)
    return content


def fill_from_parts(state: dict[str, Any], folder: Path) -> None:
    """Read a sharded run's checkpoint into the tensors of `state`, of which each process holds
    shards.
    """
    with described():
        torch.distributed.checkpoint.load(
            state, storage_reader=_Reader(folder), planner=_InPlacePlanner()
        )


@contextmanager
def described() -> Iterator[None]:
    """Turns torch's CheckpointException, which is no Exception, into a ValueError of one line."""
    try:
        yield
    except CheckpointException as error:
        raise ValueError(str(error).splitlines()[-1]) from error


def sharded_keys(folder: Path) -> set[str]:
    """The keys of the state dict in a sharded run's checkpoint."""
    prefix = "state_dict."
    keys = _Reader(folder).read_metadata().state_dict_metadata
    return {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}


def check_keys(module: nn.Module, keys: Collection[str], path: str | Path) -> None:
    """Refuse a checkpoint whose keys are not the module's (Raises: RuntimeError, as
    nn.Module.load_state_dict does).
    """
    own = module.state_dict().keys()
    missing, unexpected = sorted(own - set(keys)), sorted(set(keys) - own)
    if missing or unexpected:
        raise RuntimeError(
            f"{path} does not fit {type(module).__name__}: missing {missing[:5]} ({len(missing)} "
            f"in all), unexpected {unexpected[:5]} ({len(unexpected)} in all); resume with the "
            "callbacks and the model it was written by"
        )


def parameter_names(optimizer: Optimizer, module: nn.Module) -> list[str]:
    """The names of an optimizer's parameters, in its order."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def by_name(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """An optimizer's state dict with parameters by name rather than by place."""
    groups = [
        group | {"params": [names[k] for k in group["params"]]} for group in state["param_groups"]
    ]
    return {
        "state": {names[k]: value for k, value in state["state"].items()},
        "param_groups": groups,
    }


def by_index(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """An optimizer's state dict with parameters by place, as torch's optimizers write it."""
    place = {name: k for k, name in enumerate(names)}
    groups = [
        group | {"params": [place[name] for name in group["params"]]}
        for group in state["param_groups"]
    ]
    return {
        "state": {place[name]: value for name, value in state["state"].items()},
        "param_groups": groups,
    }


class _Unpickler(pickle.Unpickler):
    """Only the classes that torch.distributed.checkpoint describes tensors with."""

    def find_class(self, module: str, name: str) -> Any:
        if name in DESCRIPTIONS.get(module, ()) or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint")


DESCRIPTIONS = {
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "collections": ("OrderedDict",),
    "pathlib": ("Path", "PosixPath", "WindowsPath"),
}


class _Reader(FileSystemReader):
    """Reads the description of a folder as data, and checks each part against its CRC32."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            return _Unpickler(file).load()

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        places = (self.storage_data[item.storage_index] for item in plan.items)
        for share in sorted(
            {(place.relative_path, place.offset, place.length) for place in places}
        ):
            self.check_share(*share)
        return super().read_data(plan, planner)

    def check_share(self, name: str, offset: int, length: int) -> None:
        """Compare one tensor's share of a file with its CRC32 (Raises: ValueError)."""
        with (Path(self.path) / name).open("rb") as file:
            file.seek(offset)
            part = io.BytesIO(file.read(length))
        with zipfile.ZipFile(part) as archive:
            if archive.testzip() is not None:
                raise ValueError(f"{name} has changed since it was written")


class _PlainValues(DefaultLoadPlanner):
    """Reads what is no tensor as plain values, where torch would unpickle it."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        place = self.mappings[read_item.dest_index.fqn]
        set_element(self.original_state_dict, place, torch.load(value, weights_only=True))


class _Planner(_PlainValues, _EmptyStateDictLoadPlanner):
    """Asks for everything, or for the given keys."""


class _InPlacePlanner(_PlainValues):
    """Asks for what the given tensors are shards of."""


def defect(path: Path, *, trains: bool = True) -> str:
    """Say why nothing can go on from a checkpoint, a file or a folder; empty where it can.

    All of it is read once, a record at a time, for a flipped bit shows nowhere else: seconds for a
    checkpoint of 8 GiB, so callers ask the newest first and stop at the first good one.

    Args:
        path: the checkpoint.
        trains: whether it is training that is to go on, which takes more than weights.
    """
    try:
        check_whole(path)
        return lack(path, trains=trains)
    except Exception as error:  # whatever a damaged file makes of its reader
        return f"unreadable, {describe_damage(error)}"


def lack(path: Path, *, trains: bool) -> str:
    """Say what a checkpoint lacks to go on from, by its table of contents; empty for nothing.

    Raises:
        Exception: whatever a file that is none makes of its reader.
    """
    held = contents(path)
    if "state_dict" not in held:
        return "no state_dict"
    needed = ("optimizer_states", "lr_schedulers", "loops") if trains else ()
    missing = [part for part in needed if part not in held]
    return f"weights without {', '.join(missing)}" if missing else ""


def contents(path: Path) -> set[str]:
    """The parts of a checkpoint.

    Raises:
        Exception: whatever a file that is none makes of its reader.
        ValueError: a sharded run's folder from which a share is missing.
    """
    if not path.is_dir():
        return set(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    metadata = _Reader(path).read_metadata()
    for share in (metadata.storage_data or {}).values():
        if (path / share.relative_path).stat().st_size < share.offset + share.length:
            raise ValueError(f"{share.relative_path} is cut")
    parts = {key.partition(".")[0] for key in metadata.state_dict_metadata}
    if any(part.startswith("optimizer_") for part in parts):
        parts.add("optimizer_states")
    return parts | set(torch.load(path / META, map_location="cpu", weights_only=True))
