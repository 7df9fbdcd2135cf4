"""What a recipe that was built in Python says of itself: class paths and constructor arguments as
plain values.
"""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from freeflow_lightning.nets import LoRA
from freeflow_lightning.nets.recorded import Recorded, constructor_arguments
from freeflow_lightning.teachers import Convention, Teacher
from freeflow_lightning.teachers.network_arguments import ARGUMENTS

PLAIN = (bool, int, float, str, type(None))
LONGEST = 10_000
"""Numbers in a tensor that is written out."""

SAMPLED = 1024
"""Numbers of each weight that tell one set of weights from another."""


def describe(thing: Any) -> Any:
    """Plain values for an argument: class_path and init_args for an object, init_args None where
    nobody can know them.

    >>> describe((1, 2.5, None))
    [1, 2.5, None]
    >>> describe(lambda x: x)["init_args"] is None
    True
    """
    if isinstance(thing, PLAIN):
        return thing
    for kinds, how in DESCRIPTIONS:
        if isinstance(thing, kinds):
            return how(thing)
    arguments = _arguments(thing)
    return {
        "class_path": path_of(type(thing)),
        "init_args": None if arguments is None else describe(arguments),
    }


def path_of(kind: Callable) -> str:
    """Return where a class or a function is imported from."""
    return f"{kind.__module__}.{kind.__qualname__}"


def is_importable(path: str) -> bool:
    """Return whether a path can lead anywhere from another process: not into a script, a notebook
    or a function's inside.
    """
    return not path.startswith("__main__.") and "<" not in path


def _function(function: Callable) -> Any:
    path = path_of(function)
    return path if is_importable(path) else {"class_path": path, "init_args": None}


def _numbers(values: Tensor | np.ndarray) -> Any:
    """Nested lists, which become the same tensor again."""
    tensor = torch.as_tensor(values).detach()
    if (
        tensor.is_meta
        or tensor.numel() > LONGEST
        or tensor.dtype not in (torch.float32, torch.int64, torch.bool)
    ):
        return {"class_path": path_of(type(values)), "init_args": None}
    return tensor.tolist()


def _arguments(thing: Any) -> dict[str, Any] | None:
    if type(thing) in ARGUMENTS:
        return ARGUMENTS[type(thing)](thing)
    if dataclasses.is_dataclass(thing):
        return {
            field.name: getattr(thing, field.name)
            for field in dataclasses.fields(thing)
            if field.init
        }
    if isinstance(thing, Recorded):
        arguments = constructor_arguments(thing)
        return (
            _without_networks(arguments) if isinstance(thing, Teacher) and arguments else arguments
        )
    takes_none = len(inspect.signature(type(thing).__init__).parameters) == 1
    return {} if takes_none else None


class _Weights:
    """Stands for a network that a teacher was given: its class may be known, its weights are in no
    checkpoint.
    """

    def __init__(self, network: nn.Module) -> None:
        self.kind = type(network)


def _without_networks(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _Weights(value) if isinstance(value, nn.Module) else value
        for name, value in arguments.items()
    }


DESCRIPTIONS: list[tuple[Any, Callable[[Any], Any]]] = [
    (Path, str),
    (Tensor | np.ndarray, _numbers),
    (list | tuple, lambda values: [describe(value) for value in values]),
    (Mapping, lambda values: {str(name): describe(value) for name, value in values.items()}),
    # by its fields alone, as a parser takes it
    (LoRA | Convention, lambda value: describe(dataclasses.asdict(value))),
    (FunctionType | type, _function),
    (_Weights, lambda network: {"class_path": path_of(network.kind), "init_args": None}),
]
"""How each kind of argument is written out."""


def unknown_parts(config: Any, where: str = "") -> dict[str, str]:
    """Return the parts of a description that nobody can build again: their place ("network",
    "teacher.function") and class.

    >>> unknown_parts({"a": 1, "b": [{"class_path": "my.Net", "init_args": None}]})
    {'b': 'my.Net'}
    """
    if isinstance(config, list):
        return {key: path for value in config for key, path in unknown_parts(value, where).items()}
    if not isinstance(config, Mapping):
        return {}
    path = config.get("class_path")
    if path is not None and (config.get("init_args", {}) is None or not is_importable(path)):
        return {where: path}
    inside = config.get("init_args", {}) if path is not None else config
    found: dict[str, str] = {}
    for name, value in inside.items():
        found |= unknown_parts(value, f"{where}.{name}" if where else name)
    return found


def weights_sample(module: nn.Module) -> str | None:
    """Return a short digest of a module's weights from some of each; None for one without weights,
    or without their data.

    It tells weights apart without reading all of a large network.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    has_data = all(type(tensor.data) is Tensor and not tensor.is_meta for _, tensor in tensors)
    if not tensors or not has_data:
        return None
    digest = hashlib.sha256()
    for name, tensor in tensors:
        values = tensor.detach().flatten()
        some = values[:: max(1, len(values) // SAMPLED)].cpu()
        some = some.clone(memory_format=torch.contiguous_format)  # one value may have no stride
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(some.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
