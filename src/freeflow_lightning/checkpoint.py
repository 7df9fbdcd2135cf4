"""Checkpoints that are whole or not there, as one file or as the folder of a sharded run, each read by every strategy."""

import io
import os
import pickle
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn
from torch.distributed.checkpoint import FileSystemReader, Metadata
from torch.distributed.checkpoint._nested_dict import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict
from torch.optim import Optimizer

META = "meta.pt"
"""What Lightning calls the part of a sharded checkpoint that is no tensor."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, renamed into place on the same disk; the folders of sharded runs are read as well.

    Lightning itself collects the file in the system's temporary folder: where that is another disk, moving it is a copy,
    and a process that is killed meanwhile leaves half a checkpoint under the right name. Other than local paths are left to
    Lightning.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.tmp")  # one name: what a killed process left is overwritten
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if target.is_dir():  # a sharded run's, now resumed by another strategy
            shutil.rmtree(target)
        temporary.replace(target)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, _: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        if "://" in str(path) or not Path(path).is_dir():
            return super().load_checkpoint(path, map_location, weights_only)
        return read_sharded(Path(path))


@contextmanager
def written_whole(folder: Path, barrier: Callable[[], None], *, first: bool) -> Iterator[Path]:
    """A temporary folder that all processes write to, renamed to `folder` when all are done."""
    temporary, old = (folder.with_name(f".{folder.name}.{part}") for part in ("tmp", "old"))
    if first:
        shutil.rmtree(temporary, ignore_errors=True)
    barrier()
    yield temporary
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


def read_checkpoint_file(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU, one file or a sharded run's folder: tensors and plain values, nothing is executed."""
    return read_sharded(path) if path.is_dir() else torch.load(path, map_location="cpu", weights_only=True)


def read_sharded(folder: Path) -> dict[str, Any]:
    """A sharded run's checkpoint as the one-process checkpoint that it stands for."""
    content: dict[str, Any] = {}
    try:
        _load_state_dict(content, storage_reader=_Reader(folder), planner=_Planner(), no_dist=True)
    except CheckpointException as error:  # not an Exception
        raise ValueError(f"{folder} is not a whole checkpoint: {str(error).splitlines()[-1]}") from error
    found: dict[str, Any] = torch.load(folder / META, map_location="cpu", weights_only=True)
    found["state_dict"] = content.pop("state_dict")
    states = [content[f"optimizer_{k}"] for k in range(len(content))]
    named = [[name for group in state["param_groups"] for name in group["params"]] for state in states]
    return found | {"optimizer_states": [by_index(state, names) for state, names in zip(states, named, strict=True)]}


def sharded_keys(folder: Path) -> set[str]:
    """The keys of the state dict in a sharded run's checkpoint."""
    prefix = "state_dict."
    keys = _Reader(folder).read_metadata().state_dict_metadata
    return {key.removeprefix(prefix) for key in keys if key.startswith(prefix)}


def check_keys(module: nn.Module, keys: Collection[str], path: Path) -> None:
    """Refuse a checkpoint whose keys are not the module's (Raises: RuntimeError, as nn.Module.load_state_dict does)."""
    own = module.state_dict().keys()
    missing, unexpected = sorted(own - set(keys)), sorted(set(keys) - own)
    if missing or unexpected:
        raise RuntimeError(
            f"{path} does not fit {type(module).__name__}: missing {missing[:5]} ({len(missing)} in all), "
            f"unexpected {unexpected[:5]} ({len(unexpected)} in all); resume with the callbacks and the model it was written by"
        )


def parameter_names(optimizer: Optimizer, module: nn.Module) -> list[str]:
    """The names of an optimizer's parameters, in its order."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def by_name(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """An optimizer's state dict with parameters by name rather than by place."""
    groups = [group | {"params": [names[k] for k in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[k]: value for k, value in state["state"].items()}, "param_groups": groups}


def by_index(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """An optimizer's state dict with parameters by place, as torch's optimizers write it."""
    place = {name: k for k, name in enumerate(names)}
    groups = [group | {"params": [place[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {place[name]: value for name, value in state["state"].items()}, "param_groups": groups}


class _Unpickler(pickle.Unpickler):
    """Only the classes that torch.distributed.checkpoint describes tensors with."""

    def find_class(self, module: str, name: str) -> Any:
        if name in DESCRIPTIONS.get(module, ()) or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
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
    """Reads the description of a folder as data."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            return _Unpickler(file).load()


class _Planner(_EmptyStateDictLoadPlanner):
    """Asks for everything, and reads what is no tensor as plain values."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        place = self.mappings[read_item.dest_index.fqn]
        set_element(self.original_state_dict, place, torch.load(value, weights_only=True))


def defect(path: Path, *, trains: bool = True) -> str:
    """Say why nothing can go on from a checkpoint, a file or a folder; empty where it can.

    Only its table of contents is read.

    Args:
        path: the checkpoint.
        trains: whether it is training that is to go on, which takes more than weights.
    """
    try:
        content = contents(path)
    except Exception as error:  # whatever a damaged file makes of its reader
        return f"unreadable, {type(error).__name__}"
    needed = ("optimizer_states", "lr_schedulers", "loops") if trains else ()
    if missing := [part for part in needed if part not in content]:
        return f"weights without {', '.join(missing)}"
    return ""


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
