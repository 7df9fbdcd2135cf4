"""A student's network as plain values, and the network from them: what an exported folder holds in
place of code.
"""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from freeflow_lightning.nets import Adapter
from freeflow_lightning.teachers.diffusers.families import FAMILIES
from freeflow_lightning.teachers.diffusers.family import Family
from freeflow_lightning.teachers.diffusers.files import PipelineFiles, load_network
from freeflow_lightning.teachers.network_arguments import ARGUMENTS
from freeflow_lightning.teachers.sit_velocity import read_from_prior
from freeflow_lightning.training.meta_init import shapes_alone

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


def build_network(spec: Any, folder: Path, own: Builder) -> Any:
    """Return the network of a description. Only classes of this package and networks of diffusers
    are built here.

    Args:
        spec: what `describe_network` gave.
        folder: of the files of a diffusers network.
        own: makes what is neither.

    Raises:
        ValueError: a description that this version cannot build.
    """
    if not isinstance(spec, dict) or "class" not in spec:
        return spec
    if spec.get("own"):
        return own(Unknown(spec["class"], spec["arguments"]))
    arguments = {
        name: build_network(value, folder, own) for name, value in spec["arguments"].items()
    }
    if spec["class"] == "diffusers":
        return _load_diffusers(folder, **_checked_diffusers(arguments))
    kinds: dict[str, Callable[..., Any]] = {kind.__name__: kind for kind in ARGUMENTS}
    kinds["FromPrior"] = read_from_prior
    maker = kinds | {
        "Family": _build_family,
        "Tensor": lambda values: torch.tensor(values, dtype=torch.float64),
    }
    if spec["class"] not in maker:
        raise ValueError(
            f"this version of freeflow-lightning has no {spec['class']!r}: install the one that "
            f"wrote the folder"
        )
    make = maker[spec["class"]]
    is_network = isinstance(make, type) and issubclass(make, nn.Module)
    try:
        # tables are numbers, on whatever device networks are made
        with nullcontext() if is_network else torch.device("cpu"):
            return make(**arguments)
    except (
        Exception
    ) as error:  # arguments are whatever the folder says: each class refuses in its own way
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"this version of freeflow-lightning cannot build {spec['class']!r} of the folder "
            f"({reason})"
        ) from error


def check_shapes_of(spec: Any, shapes: Mapping[str, list[int]], folder: Path) -> None:
    """See that weights fit a description before memory is taken for either; of this package's own
    networks.

    Args:
        spec: what `describe_network` gave.
        shapes: of the stored tensors, by name.
        folder: for the message.

    Raises:
        ValueError: the network would have other tensors.
    """
    if _holds_others(spec):
        return  # a diffusers network has files of its own; one of the user's own is the user's
    with shapes_alone(), torch.device("meta"):
        network = build_network(spec, folder, refuse_own)
    if not isinstance(network, nn.Module):
        raise ValueError(f"the network that {folder} describes is none: export the student again")
    expected = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    different = [
        name
        for name in sorted(expected.keys() | shapes.keys())
        if expected.get(name) != shapes.get(name)
    ]
    if different:
        raise ValueError(
            f"the weights in {folder} do not fit its network: missing, too many or of another "
            f"shape: {', '.join(different[:6])}; export the student again"
        )


def refuse_own(unknown: Unknown) -> nn.Module:
    """Build no network of the user's own."""
    raise ValueError(f"{unknown.class_path} is not of this package")


def _holds_others(spec: Any) -> bool:
    """Return whether a description holds a network that is not of this package."""
    if not isinstance(spec, dict):
        return False
    return (
        bool(spec.get("own"))
        or spec.get("class") == "diffusers"
        or any(map(_holds_others, spec.values()))
    )


def _checked_diffusers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Name, type and folder of a diffusers network, each of a kind that can be meant (Raises:
    ValueError).
    """
    found = {name: arguments.get(name) for name in ("name", "dtype", "subfolder")}
    dtype = getattr(torch, str(found["dtype"]), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f"the folder names {found['dtype']!r} as the type of its network's weights, which is "
            f"none"
        )
    if found["subfolder"] not in SUBFOLDERS:
        raise ValueError(
            f"the folder has its network in {found['subfolder']!r}: expected one of "
            f"{', '.join(SUBFOLDERS)}"
        )
    name = str(found["name"])
    refuse_other_than_networks(name)
    return found | {"name": name, "dtype": dtype}


def _load_diffusers(folder: Path, *, name: str, dtype: torch.dtype, subfolder: str) -> nn.Module:
    return load_network(PipelineFiles(str(folder), name, subfolder, None, {}), dtype)


def refuse_other_than_networks(name: str) -> None:
    """Let a folder name a network of diffusers and nothing else of it (Raises: ValueError)."""
    import diffusers  # noqa: PLC0415 (slow to import)

    # one that is missing is refused where it is loaded
    kind = getattr(diffusers, name, diffusers.ModelMixin)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)):
        raise ValueError(
            f"the folder names {name!r} as its network, which is no network of diffusers"
        )


def _build_family(name: str | None = None, **essentials: Any) -> Family:
    if name is not None:
        return FAMILIES[name]
    pairs: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in essentials.items()
    }
    return dataclasses.replace(Family(), **pairs)
