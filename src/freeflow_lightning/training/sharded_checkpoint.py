"""The folder of a sharded run's checkpoint, read as data: torch.distributed.checkpoint would unpickle its description."""

import io
import pickle
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
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

from freeflow_lightning.training.checkpoint_folder import read_meta


def read_sharded(folder: Path) -> dict[str, Any]:
    """Return a sharded run's checkpoint as the one-process checkpoint that it stands for."""
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


def read_parts(folder: Path, keys: set[str] | None = None) -> dict[str, Any]:
    """Return the tensors of a sharded run's checkpoint, all of them or those of the given keys
    ("state_dict.student...").
    """
    content: dict[str, Any] = {}
    reader = FolderReader(folder)
    reader.read_metadata()  # torch would tell of a refusal in a page
    with describe_errors():
        _load_state_dict(content, storage_reader=reader, planner=_Planner(keys), no_dist=True)
    return content


def fill_from_parts(state: dict[str, Any], folder: Path) -> None:
    """Read a sharded run's checkpoint into the tensors of `state`, of which each process holds
    shards.
    """
    with describe_errors():
        torch.distributed.checkpoint.load(
            state, storage_reader=FolderReader(folder), planner=_InPlacePlanner()
        )


@contextmanager
def describe_errors() -> Iterator[None]:
    """Turns torch's CheckpointException, which is no Exception, into a ValueError of one line."""
    try:
        yield
    except CheckpointException as error:
        raise ValueError(str(error).splitlines()[-1]) from error


def sharded_keys(folder: Path) -> set[str]:
    """Return the keys of the state dict in a sharded run's checkpoint."""
    prefix = "state_dict."
    keys = FolderReader(folder).read_metadata().state_dict_metadata
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
    """Return the names of an optimizer's parameters, in its order."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def by_name(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return an optimizer's state dict with parameters by name rather than by place."""
    groups = [
        group | {"params": [names[k] for k in group["params"]]} for group in state["param_groups"]
    ]
    return {
        "state": {names[k]: value for k, value in state["state"].items()},
        "param_groups": groups,
    }


def by_index(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return an optimizer's state dict with parameters by place, as torch's optimizers write it."""
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


class FolderReader(FileSystemReader):
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
