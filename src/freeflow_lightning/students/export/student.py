"""Writing a student into a folder, and building it again from there."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn

from freeflow_lightning.nets import ScalarConditioned
from freeflow_lightning.nets.load_weights import load_weights
from freeflow_lightning.students.export.folder import (
    WEIGHTS,
    read_exported_weights,
    seal,
    write_weights,
)
from freeflow_lightning.students.export.networks import (
    Unknown,
    class_path,
    describe_network,
    find_foreign,
    is_diffusers,
    subfolder_of,
)
from freeflow_lightning.students.export.space import describe_decoder
from freeflow_lightning.teachers import Teacher
from freeflow_lightning.teachers.reading.trust import guarded, trusted


def write_student(
    network: ScalarConditioned,
    teacher: Teacher,
    folder: Path,
    facts: Mapping[str, Any],
    known: Mapping[str, dict[str, Any]],
    network_arguments: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write weights and freeflow.json; returns what it says.

    Args:
        network: a student that stands alone (no adapter).
        teacher: gives shapes, conditions and decoder.
        folder: empty.
        facts: further entries.
        known: constructor arguments of networks of the user's own, by class path.
        network_arguments: those of the outermost, where nothing else says them.

    Raises:
        ValueError: a part that a folder cannot hold.
    """
    arguments = own_arguments(network, facts.get("config"), known, network_arguments)
    spec = describe_network(network, arguments)
    for unknown in find_foreign(spec):
        refuse_unbuildable(unknown)
    decoder, left_out = describe_decoder(teacher)
    inner = diffusers_part(network)
    if inner is not None:
        path, net = inner
        net.save_pretrained(folder / subfolder_of(net), safe_serialization=True)
        own = {
            name: tensor
            for name, tensor in network.state_dict().items()
            if not name.startswith(f"{path}.")
        }
    else:
        own = network.state_dict()
    write_weights(folder / WEIGHTS, own)
    manifest = {
        "network": spec,
        "weights": [{"file": WEIGHTS, "prefix": ""}],
        "sample_shape": list(teacher.sample_shape),
        "conditions": teacher.describe_conditions(),
        "decoder": decoder,
        "left_out": left_out,
    }
    return seal(folder, manifest | dict(facts))


def load_student(network: ScalarConditioned, folder: Path, manifest: dict[str, Any]) -> None:
    """Load a folder's weights, strictly, into a network that `build_network` made; they keep their
    types.

    Raises:
        ValueError: weights that do not fit.
    """
    inner = diffusers_part(network)
    loaded = (
        {}
        if inner is None
        else {k: v for k, v in network.state_dict().items() if k.startswith(f"{inner[0]}.")}
    )
    load_weights(
        network,
        loaded | read_exported_weights(folder, manifest),
        f"the weights in {folder} do not fit its network",
        assign=True,
    )


def diffusers_part(network: nn.Module) -> tuple[str, Any] | None:
    """Path and module of the diffusers network inside a student; None where there is none."""
    return next(
        ((path, module) for path, module in network.named_modules() if is_diffusers(module)), None
    )


def own_arguments(
    network: nn.Module,
    config: Mapping[str, Any] | None,
    known: Mapping[str, dict[str, Any]],
    given: Mapping[str, Any] | None,
) -> dict[str, dict[str, Any]]:
    """Constructor arguments by class path: those that the training config names, the known ones,
    and the given ones for the outermost.
    """
    found = dict(_named_in(config or {})) | dict(known)
    unknown = find_foreign(describe_network(network, found))
    if given is not None and not unknown:
        raise ValueError(
            "the student's network is built by this package: leave network_arguments out"
        )
    return found | ({unknown[0].class_path: dict(given)} if given is not None else {})


def _named_in(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(config, Mapping):
        if isinstance(config.get("class_path"), str):
            yield config["class_path"], dict(config.get("init_args") or {})
        for value in config.values():
            yield from _named_in(value)
    elif isinstance(config, list):
        for value in config:
            yield from _named_in(value)


def refuse_unbuildable(unknown: Unknown) -> None:
    """Refuse a network that nobody could build from what the folder would say of it."""
    module, _, name = unknown.class_path.rpartition(".")
    if module == "__main__" or "<locals>" in unknown.class_path:
        raise ValueError(
            f"{name or unknown.class_path} is defined in a script or a function, from where "
            "nobody can import it: move its class into a module file"
        )
    if unknown.arguments is None:
        raise ValueError(
            f"the student's network {unknown.class_path} is not of this package, and the config "
            f"does not say with which "
            "arguments it was made: give them as network_arguments (--network_arguments "
            "'{\"width\": 32}'; a network inside "
            'it as {"class_path": ..., "init_args": {...}})'
        )


def take_own_network(
    unknown: Unknown, network: nn.Module | None, trust: str | Sequence[str] | None
) -> nn.Module:
    """Return a network of the user's own: the one handed over, or its class imported by leave.

    Raises:
        ValueError: neither was given, or it is another class.
    """
    if network is not None:
        if class_path(network) != unknown.class_path:
            raise ValueError(
                f"the student's network is {unknown.class_path}, and the one given is "
                f"{class_path(network)}"
            )
        return network
    if unknown.class_path not in trusted(trust):
        raise ValueError(
            f"the student's network is {unknown.class_path}, which is not of this package: read "
            f"its code, then give trust={unknown.class_path!r} (--trust {unknown.class_path}) to "
            "import it" + (f"; {trust!r} was given" if trust is not None else "")
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    module, _, _ = unknown.class_path.rpartition(".")
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{unknown.class_path} cannot be imported ({error}): put its file on the path "
            f"(PYTHONPATH)"
        ) from error
    settings = {"network": {"class_path": unknown.class_path, "init_args": unknown.arguments}}
    with guarded(trusted(trust, settings)):  # arguments may name classes too
        return parser.instantiate_classes(parser.parse_object(settings)).network


def find_differences(a: nn.Module, b: nn.Module) -> list[str]:
    """Return the tensors in which two networks differ, bit for bit."""
    ours, theirs = a.state_dict(), b.state_dict()
    return [
        name
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours
        or name not in theirs
        or not torch.equal(ours[name].cpu(), theirs[name].cpu())
    ]
