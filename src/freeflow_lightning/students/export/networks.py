"""A student's network as plain values: what an exported folder holds in place of code."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from freeflow_lightning.nets import Adapter
from freeflow_lightning.teachers.diffusers.families import FAMILIES
from freeflow_lightning.teachers.diffusers.family import Family
from freeflow_lightning.teachers.network_arguments import ARGUMENTS

ESSENTIALS = (
    *("time", "sign", "prediction", "layout", "classes", "state", "timestep", "time_module"),
    *("guidance_input", "guidance_offset", "needs_scheduler", "pads_in_batch"),
)
"""Fields of a Family that are plain values."""


SUBFOLDERS = ("transformer", "unet")
"""Where the pipelines of diffusers keep a network."""


class Unknown(NamedTuple):
    """A network that this package does not have: its class path, and its arguments where they are
    known.
    """

    class_path: str
    arguments: dict[str, Any] | None


Builder = Callable[[Unknown], nn.Module]
"""Makes a network of the user's own; refuses where the user has not allowed it."""


def describe_network(thing: Any, own_arguments: Mapping[str, dict[str, Any]] | None = None) -> Any:
    """Plain values (JSON) for a network, its paths and numbers.

    Args:
        thing: a ScalarConditioned network or a part of it.
        own_arguments: constructor arguments of networks that are not of this package, by class
            path.

    Raises:
        ValueError: a part that could not be built again: an adapter (merge it), a path or a
            prediction of one's own.
    """
    kind = type(thing)
    if kind in ARGUMENTS:
        arguments = {
            name: describe_network(value, own_arguments)
            for name, value in ARGUMENTS[kind](thing).items()
        }
        return {"class": kind.__name__, "arguments": arguments}
    if isinstance(thing, Family):
        return {"class": "Family", "arguments": _family_arguments(thing)}
    if isinstance(thing, Tensor):
        return {"class": "Tensor", "arguments": {"values": thing.tolist()}}
    if isinstance(thing, Adapter):
        raise ValueError(
            "the student is an adapter on its teacher: merge it first "
            "(freeflow_lightning.nets.merge)"
        )
    if isinstance(thing, nn.Module):
        return _describe_foreign(thing, own_arguments or {})
    if dataclasses.is_dataclass(thing) or not isinstance(
        thing, bool | int | float | str | list | tuple | dict | None
    ):
        raise ValueError(
            f"{kind.__module__}.{kind.__qualname__} is not of this package, and a folder cannot "
            f"hold its code"
        )
    return thing


def _describe_foreign(
    module: nn.Module, own_arguments: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return a network of diffusers, or of the user's own."""
    if is_diffusers(module):
        dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
        arguments = {
            "name": type(module).__name__,
            "dtype": dtype,
            "subfolder": subfolder_of(module),
        }
        return {"class": "diffusers", "arguments": arguments}
    path = class_path(module)
    return {"class": path, "own": True, "arguments": own_arguments.get(path)}


def class_path(module: nn.Module) -> str:
    """Return where a network's class is imported from."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def is_diffusers(module: nn.Module) -> bool:
    """Return whether a network is a class of diffusers itself, which saves and loads its own
    files.
    """
    return type(module).__module__.startswith("diffusers.models.")


def subfolder_of(module: nn.Module) -> str:
    """Return where the pipelines of diffusers keep a network."""
    return "unet" if type(module).__name__.startswith("UNet") else "transformer"


def _family_arguments(family: Family) -> dict[str, Any]:
    known = [name for name, row in FAMILIES.items() if row == family]
    if known:
        return {"name": known[0]}
    arguments = {name: getattr(family, name) for name in ESSENTIALS}
    if dataclasses.replace(Family(), **arguments) != family:
        raise ValueError(
            "the family of this network has functions of your own, which a folder cannot hold"
        )
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in arguments.items()
    }


def find_foreign(spec: Any) -> list[Unknown]:
    """Return the networks of the user's own in a description."""
    if not isinstance(spec, dict):
        return []
    mine = [Unknown(spec["class"], spec["arguments"])] if spec.get("own") else []
    return mine or [found for value in spec.values() for found in find_foreign(value)]
