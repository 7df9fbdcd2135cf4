"""The student of an exported folder."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from freeflow_lightning.students.export.build_network import build_network
from freeflow_lightning.students.export.folder import find_exported
from freeflow_lightning.students.export.networks import find_foreign
from freeflow_lightning.students.export.space import build_space
from freeflow_lightning.students.export.student import load_student, take_own_network
from freeflow_lightning.students.student import ABOUT, OWN_NETWORKS, Student
from freeflow_lightning.teachers import Conditions
from freeflow_lightning.teachers.reading.hub import HubAccess


def read_exported(
    place: str | Path,
    *,
    hub: HubAccess = HubAccess(),  # noqa: B008 (immutable)
    conditions: Conditions | None = None,
    network: nn.Module | None = None,
    trust: str | Sequence[str] | None = None,
) -> Student:
    """Read a student from a folder or a hub repository; the arguments are those of
    `FlowMap.from_pretrained`, the hub's together.

    Raises:
        FileNotFoundError: no such folder or repository, or one that lacks a file.
        ValueError: a changed file, weights that do not fit, or a network of one's own without
            `network` or `trust`.
    """
    folder, manifest = find_exported(place, hub)
    mine = [unknown.class_path for unknown in find_foreign(manifest["network"])]
    if not mine and (network is not None or trust is not None):
        raise ValueError(
            f"the network of {place} is built by this package: leave network and trust out"
        )
    student = build_network(
        manifest["network"], folder, lambda unknown: take_own_network(unknown, network, trust)
    )
    load_student(student, folder, manifest)
    space = build_space(manifest, folder, conditions)
    low, high = manifest["guidance_range"]
    about = {name: manifest.get(name) for name in ABOUT}
    own = {unknown.class_path: unknown.arguments for unknown in find_foreign(manifest["network"])}
    if own:
        about[OWN_NETWORKS] = own
    return Student(student, space, (low, high), about)
