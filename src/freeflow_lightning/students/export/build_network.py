"""A student's network from plain values: classes of this package and of diffusers are built, no
others.
"""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from freeflow_lightning.students.export.networks import SUBFOLDERS, Builder, Unknown
from freeflow_lightning.teachers.diffusers.families import FAMILIES
from freeflow_lightning.teachers.diffusers.family import Family
from freeflow_lightning.teachers.diffusers.files import PipelineFiles, load_network
from freeflow_lightning.teachers.network_arguments import ARGUMENTS
from freeflow_lightning.teachers.sit_velocity import read_from_prior
from freeflow_lightning.training.meta_init import shapes_alone


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
    except Exception as error:  # each class refuses in its own way what a folder may say
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
